"""`cai split`: a hash of the id decides the side."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.conftest import Here
from tests.rows import asks, read_jsonl, write_jsonl


def test_a_record_stays_on_its_side_of_a_split(here: Here, tmp_path: Path) -> None:
    rows = asks(300)
    source, a, b = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    here("split", source, "--fraction", 0.2, "-o", a, "--rest", b)
    held, rest = read_jsonl(a), read_jsonl(b)
    assert sorted(row["id"] for row in held + rest) == sorted(row["id"] for row in rows)
    assert 40 <= len(held) <= 80
    assert [r for r in rows if r in held] == held  # in input order
    random.Random(0).shuffle(rows)
    write_jsonl(Path(source), [*rows, {"id": "new", "prompt": "new?"}])
    again = here("split", source, "--fraction", 0.2).out
    assert {json.loads(line)["id"] for line in again.splitlines()} - {"new"} == {row["id"] for row in held}
