"""`--shard` and `cai join`: the shards of a run together are the file of one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Here, in_process
from tests.rows import write_jsonl
from tests.tiny import EXACT, TRANSFORMERS

STEPS = {
    "sample": (*EXACT, "-n", 2),
    "critique": (*EXACT, "--few-shot", 0),
    "label": (*TRANSFORMERS, "--deterministic", "--few-shot", 0),
}


def rows(step: str) -> list[dict[str, object]]:
    """Ten records, one of them too long for the model, two equal ones without an id."""
    extra: dict[str, object] = {"critique": {"response": "Hi."}, "label": {"responses": ["Hi.", "Yes.", "No."]}}.get(step, {})  # type: ignore[assignment]
    made: list[dict[str, object]] = [{"id": f"q{i}", "prompt": f"Hello {i}?", **extra} for i in range(7)]
    return [
        {"prompt": "Who?", **extra},
        *made[:4],
        {"id": "long", "prompt": "word " * 9000, **extra},
        *made[4:],
        {"prompt": "Who?", **extra},
    ]


@pytest.mark.parametrize("step", STEPS)
def test_joined_shards_are_the_file_of_one_run(step: str, here: Here, tiny: str, tmp_path: Path) -> None:
    source, whole, joined = write_jsonl(tmp_path / "in.jsonl", rows(step)), tmp_path / "whole.jsonl", tmp_path / "joined.jsonl"
    flags = (source, "-m", tiny, *STEPS[step], "--limit", 9)
    here(step, *flags, "-o", whole)
    for n in (1, 2, 7):
        parts = [tmp_path / f"part{n}-{i}.jsonl" for i in range(1, n + 1)]
        for i, part in enumerate(parts, 1):
            in_process(step, *flags, "--shard", f"{i}/{n}", "-o", part)  # 1 where all of a shard is skipped
        here("join", *reversed(parts), *tmp_path.glob(f"part{n}-*.skipped.jsonl"), "-o", joined)
        for kind in ("", ".skipped.jsonl"):
            assert Path(f"{joined}{kind}").read_bytes() == Path(f"{whole}{kind}").read_bytes()
        one, many = (json.loads(Path(f"{path}.manifest.json").read_text()) for path in (whole, joined))
        assert many["fingerprint"] == one["fingerprint"]
        assert {**many["counts"], "seconds": 0, "cached_calls": 0} == {**one["counts"], "seconds": 0, "cached_calls": 0}
    a, b = tmp_path / "part2-1.jsonl", tmp_path / "part2-2.jsonl"
    assert "missing of 2 shards: 2" in here("join", a, "-o", joined, code=2).err
    assert "give each shard once" in here("join", a, b, a, "-o", joined, code=2).err
    Path(f"{b}.partial").touch()
    assert "unfinished" in here("join", a, b, "-o", joined, code=2).err


def test_a_slurm_array_gives_the_shard(here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": f"q{i}", "prompt": "Hello?"} for i in range(6)])
    for first in (0, 1):
        for name, value in {"ID": first + 1, "COUNT": 2, "MIN": first}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        out = tmp_path / f"{first}.jsonl"
        assert "shard 2/2, from SLURM_ARRAY_TASK_ID" in here("sample", source, "-m", tiny, *EXACT, "-o", out).err
        assert json.loads(Path(f"{out}.manifest.json").read_text())["shard"] == "2/2"
    assert "--shard 3/2: give I/N" in here("sample", source, "-m", tiny, "--shard", "3/2", code=2).err
