"""The output directory of a trainer."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from tests.processes import CAI, environment
from tests.rows import read_jsonl, revisions, write_jsonl
from tests.tiny import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_full_disk_is_one_sentence(tiny: str, tmp_path: Path) -> None:
    """A limit on the size of files replaces the disk: the same calls fail in the same places."""
    good = write_jsonl(tmp_path / "in.jsonl", revisions(4))
    done = subprocess.run(
        [*CAI, "train-sft", good, "-m", tiny, "-o", str(tmp_path / "out"), "--steps", "2"],
        cwd=ROOT, env=environment(), capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "the disk is full" in done.stderr.strip().splitlines()[-1]
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()
    assert read_jsonl(tmp_path / "out.partial" / "metrics.jsonl")[-1]["step"] == 2
