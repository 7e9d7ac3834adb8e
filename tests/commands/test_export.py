"""`cai export`: TRL's columns, flagged rounds, ties."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Here
from tests.rows import flagged, read_jsonl, write_jsonl


def test_revisions_are_exported_and_flagged_ones_left_out_by_count(here: Here, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", flagged())

    def exported(*options: object) -> list[str]:
        done = here("export", "sft", source, *options)
        rows = [json.loads(line) for line in done.out.splitlines()]
        return [row["completion"][0]["content"] for row in rows] + [done.err.strip().partition("; ")[2]]

    assert exported() == ["First.", "Second.", "Me.", ""]
    assert exported("--revisions", "last") == ["Second.", "Me.", ""]
    assert exported("--drop-flags", "unchanged") == ["Second.", "Me.", "1 rounds left out (revision-unchanged 1)"]
    assert exported("--drop-flags", "revision-cut") == ["First.", "Second.", "Me.", ""]
    assert exported("--drop-flags", "all")[:-1] == ["Me."]
    assert "no flag 'unchaned'" in here("export", "sft", source, "--drop-flags", "unchaned", code=2).err
    last = here("export", "sft", source, "--revisions", "last", "--drop-flags", "unchanged").out
    assert json.loads(last.splitlines()[0])["id"] == "a/2"
    [row, *_] = (json.loads(line) for line in here("export", "sft", source, "--form", "messages").out.splitlines())
    assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
    assert (row["id"], row["source_id"]) == ("a/1", "a")


def test_exports_load_in_trl(here: Here, tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl.data_utils import is_conversational

    here("export", "sft", write_jsonl(tmp_path / "in.jsonl", flagged()), "-o", tmp_path / "sft.jsonl")
    data = load_dataset("json", data_files=str(tmp_path / "sft.jsonl"), split="train")
    assert is_conversational(data[0])
    pair = {"id": "a/0-1", "prompt": "Hello?", "chosen": [{"role": "assistant", "content": "Hi."}],
            "rejected": [{"role": "assistant", "content": "No."}], "p_chosen": 0.7, "label": {"pair": [0, 1]}}  # fmt: skip
    here("export", "preferences", write_jsonl(tmp_path / "p.jsonl", [pair]), "-o", tmp_path / "trl.jsonl")
    [row] = load_dataset("json", data_files=str(tmp_path / "trl.jsonl"), split="train")
    assert is_conversational(row)
    assert set(row) == {"id", "prompt", "chosen", "rejected", "p_chosen"}


def test_ties_are_dropped_or_weighted_at_export_and_counted(here: Here, tmp_path: Path) -> None:
    turn = [{"role": "assistant", "content": "x"}]
    rows = [{"id": str(p), "prompt": "Hi", "chosen": turn, "rejected": turn, "p_chosen": p} for p in (0.5, 0.52, 0.6, 1.0)]
    rows[-1]["weight"] = 0.5
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    done = here("export", "preferences", source, "--min-margin", 0.05, "--weigh", "-o", tmp_path / "out")
    assert "2 preferences; 1 ties and 1 near-ties left out" in done.err
    assert [row["weight"] for row in read_jsonl(tmp_path / "out")] == [pytest.approx(0.2), 0.5]
    done = here("export", "preferences", source, "--min-margin", 0.1, "-o", tmp_path / "out")
    assert [row["p_chosen"] for row in read_jsonl(tmp_path / "out")] == [0.6, 1.0]
    assert "1 ties have weight 0" in here("export", "preferences", source, "--weigh", "-o", tmp_path / "out").err
