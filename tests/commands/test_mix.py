"""`cai mix`: files by weight or count."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl


def test_files_are_mixed_by_weight_or_count_and_each_record_names_its_file(here: Here, tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", [{"id": f"r{i}", "prompt": f"One {i}?"} for i in range(40)])
    two = write_jsonl(tmp_path / "two.jsonl", [{"id": f"r{i}", "prompt": f"Two {i}?"} for i in range(20, 60)])
    here("mix", one, f"{two}=0.5", "-o", tmp_path / "out")
    got = read_jsonl(tmp_path / "out")
    assert Counter(row["mixed_from"] for row in got) == {"one": 40, "two": 20}
    assert len({row["id"] for row in got}) == 60
    assert [row["mixed_from"] for row in got] != sorted(row["mixed_from"] for row in got)  # shuffled
    shared = [row for row in got if ":" in row["id"]]
    assert shared
    assert all(row["id"] == f"{row['mixed_from']}:{row['source_id']}" for row in shared)
    here("mix", one, f"{two}=0.5", "-o", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "out").read_bytes()
    here("mix", one, f"{two}=0.5", "--seed", 1, "-o", tmp_path / "other")
    assert {row["prompt"] for row in read_jsonl(tmp_path / "other")} != {row["prompt"] for row in got}
    here("mix", f"{one}=3", f"{two}=5", "--count", "-o", tmp_path / "counted")
    assert Counter(row["mixed_from"] for row in read_jsonl(tmp_path / "counted")) == {"one": 3, "two": 5}
    here("mix", f"{one}=2", "-o", tmp_path / "twice")
    twice = read_jsonl(tmp_path / "twice")
    assert len({row["id"] for row in twice}) == 80
    assert {row.get("source_id", row["id"]) for row in twice} == {f"r{i}" for i in range(40)}
    here("mix", f"{tmp_path / 'twice'}=2", "-o", tmp_path / "four")
    assert len({row["id"] for row in read_jsonl(tmp_path / "four")}) == 160
    here("mix", one, f"{one}=1", "--count", "-o", tmp_path / "more")
    assert len(read_jsonl(tmp_path / "more")) == 41
    assert "has 40 records, which is fewer than 50" in here("mix", f"{one}=50", "--count", code=2).err
