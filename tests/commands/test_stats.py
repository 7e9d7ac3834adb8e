"""`cai stats`: counts, odd records, and where a file came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Here
from tests.rows import asks, flagged, write_jsonl
from tests.tiny import EXACT


def test_statistics_count_records_flags_and_tokens(here: Here, tmp_path: Path) -> None:
    out = here("stats", write_jsonl(tmp_path / "in.jsonl", flagged())).out
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    assert out.startswith("2 records")
    assert lines["honesty"][1:] == ["1", "(100%)", "0", "(0%)", "1", "(50%)"]
    assert lines["revision-unchanged"][1:3] == ["1", "(100%)"]
    assert lines["revision 2"][-2:] == ["9", "100%"]
    two = [{"id": str(n), "prompt": "x", "response": "word " * n} for n in (1, 100)]
    out = here("stats", write_jsonl(tmp_path / "two.jsonl", two)).out
    assert next(line.split()[1:6] for line in out.splitlines() if line.startswith("response")) == ["2", "11", "50", "90", "100"]


ODD = [
    {"meta": None},
    {"prompt": 5},
    {"response": None},
    {"response": "x", "rounds": [{"revision": "y", "meta": None}]},
    {"response": "x", "rounds": [{"revision": "y", "flags": None}]},
    {"scores": []},
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_records_are_named_by_line(here: Here, tmp_path: Path, odd: dict[str, Any]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Hello?", "response": "Hi.", **odd}])
    for command in ("stats", "show"):
        assert f"{source}:1: '" in here(command, source, code=2).err
    if "scores" not in odd:
        assert f"{source}:1: '" in here("export", "sft", source, code=2).err


def test_statistics_show_where_a_file_came_from(here: Here, tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(3))
    here("sample", prompts, "-m", tiny, *EXACT, "-o", tmp_path / "r.jsonl")
    here("critique", tmp_path / "r.jsonl", "-m", tiny, *EXACT, "-o", tmp_path / "c.jsonl")
    tree = here("stats", tmp_path / "c.jsonl").out.split("\n\n")[-1]
    for part in ("c.jsonl  critique", "constitution default", "r.jsonl  sample", "p.jsonl  no manifest", f"{tiny}  model"):
        assert part in tree
