"""Slow tests, by `make soak`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import cai, environment
from tests.tiny import ROOT

pytestmark = pytest.mark.soak

RUN = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "cai_cli.main", *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


def peak_memory(*args: object) -> int:
    """Peak memory of a `cai` process, in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, args)], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])


def test_memory_is_flat_in_the_number_of_records(tiny: str, tmp_path: Path) -> None:
    """A generating step over 100,000 records takes less than 100 MB more memory than one over 1,000."""
    peaks = {}
    for n in (1_000, 100_000):
        source = tmp_path / f"{n}.jsonl"
        with source.open("w") as stream:
            stream.writelines(json.dumps({"id": f"q{i}", "prompt": f"What is {i}?"}) + "\n" for i in range(n))
        out = tmp_path / f"{n}.out"
        options = ("--engine", "transformers", "--dtype", "float32", "--batch-size", 256, "--max-tokens", 2)
        peaks[n] = peak_memory("sample", source, "-m", tiny, *options, "-o", out)
        assert sum(1 for _ in out.open()) == n
    print(f"peak memory: {peaks[1_000]} MiB for 1,000 records, {peaks[100_000]} MiB for 100,000")
    assert peaks[100_000] - peaks[1_000] < 95  # MiB: 100 MB


@pytest.mark.vllm
@pytest.mark.usefixtures("needs_vllm")
def test_the_vllm_engine_ends_with_its_command_and_logs_to_stderr(real: Path, tmp_path: Path) -> None:
    """A separate process, as a user runs it: records on standard output, no child left, and no messages of the libraries."""
    source = ROOT / "examples" / "red-team.jsonl"
    done = cai("sample", source, "-m", real, "--engine", "vllm", "--limit", 8, "--max-tokens", 16)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [f"red-{i:03}" for i in range(1, 9)]
    said = [line for line in done.stderr.splitlines() if "truncated at --max-tokens" not in line]  # so few tokens end no answer
    assert said[-1].startswith("cai sample: 8 records")
    assert len(done.stderr.splitlines()) <= 3, done.stderr
    left = subprocess.run(["pgrep", "-f", f"cai_cli.main sample {source}"], capture_output=True, text=True).stdout
    assert left == ""
