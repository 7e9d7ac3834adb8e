"""`cai import`: what is kept, repeated, odd or skipped, and how it is named and counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.conftest import Here
from tests.rows import asks, read_jsonl, turns, write_jsonl


def pair(question: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"chosen": turns(question, chosen), "rejected": turns(question, rejected)}


def test_hh_pairs_become_prompts_and_odd_ones_are_named(here: Here, tmp_path: Path) -> None:
    long = {
        side: f"\n\nHuman: Note: a\n\nb\n\nAssistant: yes: c\n\nHuman: and?\n\nAssistant: {side}"
        for side in ("chosen", "rejected")
    }
    rows = [
        pair("One?", "a", "b"),
        long,
        pair("One?", "c", "d"),
        {"chosen": "\n\nHuman: x\n\nAssistant: y", "rejected": "\n\nHuman: z\n\nAssistant: y"},
    ]
    rows += [
        {"chosen": "text", "rejected": "text"},
        {"chosen": "\n\nHuman: x\n\nAssistant:", "rejected": "\n\nHuman: x\n\nAssistant: y"},
    ]
    path = tmp_path / "hh.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    out = tmp_path / "prompts.jsonl"
    done = here("import", "hh-rlhf", path, "--kind", "red-team", "-o", out)
    got = read_jsonl(out)
    assert [row["prompt"][-1]["content"] for row in got] == ["One?", "and?", "x"]
    assert got[1]["prompt"][0]["content"] == "Note: a\n\nb"
    assert got[1]["prompt"][1]["content"] == "yes: c"
    assert {row["kind"] for row in got} == {"red-team"}
    assert "skipped line 4: the prompts of 'chosen' and 'rejected' differ" in done.err
    assert "skipped line 5: not a transcript" in done.err
    assert "3 prompts of 6 lines; 1 repeated prompt left out; 2 skipped" in done.err
    assert json.loads((tmp_path / "prompts.jsonl.manifest.json").read_text())["counts"]["skipped"] == 2
    other = write_jsonl(tmp_path / "other.jsonl", asks(3))
    assert "use the subcommand for the file's form" in here("import", "hh-rlhf", other, code=2).err


def test_the_real_hh_rlhf_file_is_imported(here: Here, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "prompts.jsonl"
    here("import", "hh-rlhf", shared / "data/hh-rlhf/harmless-base-2000.jsonl.gz", "-o", out)
    rows = read_jsonl(out)
    assert len(rows) == 1994
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["prompt"][-1]["role"] == "user" for row in rows)


def test_odd_pairs_are_kept_and_named_by_line(here: Here, tmp_path: Path) -> None:
    rows = [
        {"chosen": turns("One?"), "rejected": turns("One?", "")},
        {"chosen": "\n\nHuman: a" + turns("b"), "rejected": "\n\nHuman: a" + turns("b", "c")},
    ]
    out = tmp_path / "out.jsonl"
    err = here("import", "hh-rlhf", write_jsonl(tmp_path / "in.jsonl", rows), "-o", out).err
    assert "kept line 1: the answer of 'rejected' is empty" in err
    assert "kept line 2: two turns in a row have the same role" in err
    assert [m["content"] for m in read_jsonl(out)[1]["prompt"]] == ["a", "b"]
    assert json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["counts"]["odd"] == 2


@pytest.mark.parametrize("form", ["hh-rlhf", "red-team-attempts", "csv", "text"])
@pytest.mark.parametrize("data", [b"plain", gzip.compress(b"x" * 999)[:20]], ids=["not gzip", "cut off"])
def test_a_bad_gzip_file_is_named(here: Here, tmp_path: Path, form: str, data: bytes) -> None:
    (tmp_path / "x.gz").write_bytes(data)
    err = here("import", form, tmp_path / "x.gz", "-o", tmp_path / "out.jsonl", code=2).err
    assert "x.gz: not a complete gzip file" in err
