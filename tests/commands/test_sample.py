"""`cai sample`: draws that depend on the record alone, and answered records."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl
from tests.tiny import EXACT


def test_a_record_draws_the_same_in_any_file(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-n", 2, "-o", whole)
    shard = write_jsonl(tmp_path / "shard.jsonl", read_jsonl(prompts)[7:4:-1])
    here("sample", shard, "-m", tiny, *EXACT, "-n", 2, "-o", part)
    assert read_jsonl(part) == read_jsonl(whole)[7:4:-1]
    here("sample", prompts, "-m", tiny, *EXACT, "-n", 2, "--seed", 1, "-o", part)
    assert all(a["responses"] != b["responses"] for a, b in zip(read_jsonl(part), read_jsonl(whole), strict=True))


def test_answered_records_are_refused_unless_resampled(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    out, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    assert "--resample answers it again" in here("sample", out, "-m", tiny, *EXACT, "-o", again, code=2).err
    here("sample", out, "-m", tiny, *EXACT, "--resample", "--seed", 1, "-n", 2, "-o", again)
    before, after = read_jsonl(out)[0], read_jsonl(again)[0]
    assert after["previous"] == [{"response": before["response"], "meta": before["meta"]}]
    assert len(after["responses"]) == 2
    assert "response" not in after
