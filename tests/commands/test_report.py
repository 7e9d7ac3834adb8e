"""`cai report`: the steps of a run."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Here
from tests.rows import asks, write_jsonl
from tests.tiny import ROOT, TRANSFORMERS


def test_report_tabulates_the_manifests(here: Here, tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(3))
    here("sample", prompts, "-m", tiny, *TRANSFORMERS, "--max-tokens", 4, "-o", tmp_path / "answers.jsonl")
    out = here("report", tmp_path).out
    assert out.splitlines()[1].split()[:4] == ["answers.jsonl", "sample", "3", "3"]
    assert "has no manifest of a finished step" in here("report", ROOT / "examples", code=2).err
