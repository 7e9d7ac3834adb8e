"""`--shard` and `cai join`: the shards of a run together are the file of one run."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

from cai_cli.pipeline import shards
from tests.conftest import Here
from tests.rows import write_jsonl
from tests.tiny import EXACT, TRANSFORMERS

JUDGING = (*TRANSFORMERS, "--deterministic")
ALONE = (*TRANSFORMERS, "--dtype", "float32", "--batch-size", 1)
"""A preference model's scores do not depend on the shard if each text is scored alone."""
STEPS: dict[str, tuple[tuple[object, ...], dict[str, object]]] = {
    "sample": ((*EXACT, "-n", 2), {}),
    "critique": ((*EXACT, "--few-shot", 0), {"response": "Hi."}),
    "revise": ((*EXACT, "--few-shot", 0), {"response": "Hi.", "rounds": [{"principle": "general-harm", "critique": "So."}]}),
    "label": ((*JUDGING, "--few-shot", 0), {"responses": ["Hi.", "Yes.", "No."]}),
    "grade": ((*JUDGING, "-r", "refusal"), {"response": "Hi."}),
    "score": (ALONE, {"responses": ["Hi.", "Yes."]}),
}


def rows(step: str) -> list[dict[str, object]]:
    """Ten records, one of them too long for the model, two equal ones without an id."""
    extra = STEPS[step][1]
    made: list[dict[str, object]] = [{"id": f"q{i}", "prompt": f"Hello {i}?", **extra} for i in range(7)]
    return [
        {"prompt": "Who?", **extra},
        *made[:4],
        {"id": "long", "prompt": "word " * 9000, **extra},
        *made[4:],
        {"prompt": "Who?", **extra},
    ]


@pytest.mark.parametrize("step", STEPS)
def test_joined_shards_are_the_file_of_one_run(step: str, here: Here, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    source, whole, joined = write_jsonl(tmp_path / "in.jsonl", rows(step)), tmp_path / "whole.jsonl", tmp_path / "joined.jsonl"
    flags = (source, "-m", tiny_pm if step == "score" else tiny, *STEPS[step][0], "--limit", 9)
    here(step, *flags, "-o", whole)
    for n in (1, 2, 7):
        parts = [tmp_path / f"part{n}-{i}.jsonl" for i in range(1, n + 1)]
        for i, part in enumerate(parts, 1):  # one of seven shards has only the record that is skipped
            here(step, *flags, "--shard", f"{i}/{n}", "-o", part)
        here("join", *reversed(parts), *tmp_path.glob(f"part{n}-*.skipped.jsonl"), "-o", joined)
        for kind in ("", ".skipped.jsonl"):
            assert Path(f"{joined}{kind}").read_bytes() == Path(f"{whole}{kind}").read_bytes()
        one, many = (json.loads(Path(f"{path}.manifest.json").read_text()) for path in (whole, joined))
        assert (many["fingerprint"], many.get("summary")) == (one["fingerprint"], one.get("summary"))
        same = ("records_in", "records_out", "skipped", "prompt_tokens", "completion_tokens")
        assert [many["counts"][key] for key in same] == [one["counts"][key] for key in same]


def test_join_names_what_is_wrong_with_a_set_of_shards(here: Here, tiny: str, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", rows("sample")), tmp_path / "joined.jsonl"
    a, b = tmp_path / "part-1.jsonl", tmp_path / "part-2.jsonl"

    def make(part: Path, shard: str, *more: object) -> None:
        here("sample", source, "-m", tiny, *EXACT, "--shard", shard, *more, "-o", part)

    def refused(*parts: Path) -> str:
        message = here("join", *parts, "-o", out, code=2).err
        assert not out.exists()
        return message

    make(a, "1/2")
    assert f"{b}: no such file; run the shard's command" in refused(a, b)
    Path(f"{b}.partial").touch()  # as a kill leaves it
    assert f"{b}: the shard is unfinished; run its command again" in refused(a, b)
    make(b, "2/2")
    assert "missing of 2 shards: 2" in refused(a)
    assert "give each shard once" in refused(a, b, a)
    for name in (f"{b}.order", f"{b}.manifest.json"):
        kept = Path(name).read_bytes()
        Path(name).unlink()
        assert "without its .manifest.json and .order" in refused(a, b)
        Path(name).write_bytes(kept)
    order = Path(f"{b}.order")
    whole = order.read_bytes()
    for torn in (whole[:-5], whole.partition(b"\n")[2], whole + whole):  # a copy that broke off, one that lost a line, a double
        order.write_bytes(torn)
        assert any(text in refused(a, b) for text in (f"does not hold the lines that {order} lists", f"{order}:5: not an entry"))
    order.write_bytes(whole)
    records = b.read_bytes()
    b.write_bytes(records.replace(b"Hello", b"Hallo"))
    assert f"{b}: was edited after it was made" in refused(a, b)
    b.write_bytes(records)
    make(b, "2/2", "--seed", 1)
    assert "is of another run than" in refused(a, b)
    make(b, "2/3")
    assert "give shards of one N" in refused(a, b)
    make(b, "2/2")
    assert "2 shards, 9 records" in here("join", a, b, "-o", out).err


def test_only_all_shards_together_must_have_a_record(here: Here, tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": f"q{i}", "prompt": "word " * 9000} for i in range(3)])
    parts = [tmp_path / f"part-{i}.jsonl" for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        for said in ("skipped", "already done"):
            assert said in here("sample", source, "-m", tiny, *EXACT, "--shard", f"{i}/3", "-o", part).err
    assert (
        "sample: every record" in here("sample", source, "-m", tiny, *EXACT, "--shard", "1/1", "-o", tmp_path / "x", code=1).err
    )
    assert "join: every record was skipped" in here("join", *parts, "-o", tmp_path / "joined.jsonl", code=1).err


def test_a_slurm_array_gives_the_shard(here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": f"q{i}", "prompt": "Hello?"} for i in range(6)])
    for first in (0, 1):
        for name, value in {"ID": first + 1, "COUNT": 2, "MIN": first}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        out = tmp_path / f"{first}.jsonl"
        assert "shard 2/2, from SLURM_ARRAY_TASK_ID" in here("sample", source, "-m", tiny, *EXACT, "-o", out).err
        assert json.loads(Path(f"{out}.manifest.json").read_text())["shard"] == "2/2"
    assert "--shard 3/2: give I/N" in here("sample", source, "-m", tiny, "--shard", "3/2", code=2).err


def test_more_shards_are_merged_than_files_may_be_open(tmp_path: Path) -> None:
    """Two files of each are read at once. The soft limit of a shell is often 1,024."""
    paths = []
    for i in range(60):
        (tmp_path / f"{i}.order").write_text(json.dumps([f"{60 - i}:x", 1, 0, 3, 4, 0, 0, 0.1]) + "\n")
        (tmp_path / str(i)).write_text(f"{60 - i}\n")
        paths.append(str(tmp_path / str(i)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        assert [int(line) for line in shards.merge(paths)] == list(range(1, 61))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
