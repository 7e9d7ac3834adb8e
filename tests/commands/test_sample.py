"""`cai sample`: draws that depend on the record alone, and answered records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_cli.method import constitution
from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl
from tests.templated import spy
from tests.tiny import EXACT


def test_a_record_draws_the_same_in_any_file(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-n", 2, "-o", whole)
    shard = write_jsonl(tmp_path / "shard.jsonl", read_jsonl(prompts)[7:4:-1])
    here("sample", shard, "-m", tiny, *EXACT, "-n", 2, "-o", part)
    assert read_jsonl(part) == read_jsonl(whole)[7:4:-1]
    here("sample", prompts, "-m", tiny, *EXACT, "-n", 2, "--seed", 1, "-o", part)
    assert all(a["responses"] != b["responses"] for a, b in zip(read_jsonl(part), read_jsonl(whole), strict=True))


def test_the_samples_of_a_record_have_seeds_of_their_own(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-n", 3, "--max-tokens", 12, "-o", out)
    for row in read_jsonl(out):
        assert len({meta["seed"] for meta in row["meta"]["responses"]}) == len(set(row["responses"])) == 3


def test_answered_records_are_refused_unless_resampled(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    out, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    assert "--resample answers it again" in here("sample", out, "-m", tiny, *EXACT, "-o", again, code=2).err
    here("sample", out, "-m", tiny, *EXACT, "--resample", "--seed", 1, "-n", 2, "-o", again)
    before, after = read_jsonl(out)[0], read_jsonl(again)[0]
    assert after["previous"] == [{"response": before["response"], "meta": before["meta"]}]
    assert len(after["responses"]) == 2
    assert "response" not in after


def test_turns_are_answered_one_after_the_other(
    here: Here, tiny: str, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn sees the answers to the earlier ones; the record becomes a response record of the whole conversation."""
    [row] = read_jsonl(shared / "cases" / "mt-bench-form.jsonl")
    record = {"id": str(row["question_id"]), "prompt": row["turns"][0], "turns": row["turns"], "category": row["category"]}
    source, seen = write_jsonl(tmp_path / "in.jsonl", [record]), spy(monkeypatch)
    assert "--turns answers them" in here("sample", source, "-m", tiny, *EXACT, code=2).err
    here("sample", source, "-m", tiny, *EXACT, "--turns", "-o", tmp_path / "out")
    [found] = read_jsonl(tmp_path / "out")
    first, second = row["turns"]
    assert [m["role"] for m in found["prompt"]] == ["user", "assistant", "user"]
    assert [found["prompt"][0]["content"], found["prompt"][2]["content"]] == [first, second]
    reply = found["prompt"][1]["content"]
    assert seen.requests[1].text == (
        f"<|im_start|>user\n{first}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>\n"
        f"<|im_start|>user\n{second}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found["category"] == "writing"
    assert isinstance(found["response"], str)
    other = write_jsonl(tmp_path / "other.jsonl", [{**record, "prompt": "Another."}])
    assert "must begin with the message of 'prompt'" in here("sample", other, "-m", tiny, *EXACT, "--turns", code=2).err


def test_truncated_answers_are_reported(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    err = here("sample", prompts, "-m", tiny, *EXACT, "-n", 2, "-o", tmp_path / "out").err
    cut = sum(entry["finish"] == "length" for row in read_jsonl(tmp_path / "out") for entry in row["meta"]["responses"])
    assert cut > 3
    assert f"warning: sample: {cut} of 24 answers ({cut / 24:.0%}) truncated at --max-tokens" in err
    made = json.loads((tmp_path / "out.manifest.json").read_text())
    assert made["summary"] == {"answers": 24, "truncated": cut}


@pytest.mark.parametrize("format", ["chat", "hh"])
def test_the_constitution_is_shown_and_the_record_keeps_its_prompt(
    format: str, here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All principles are a prefix that is computed once; drawn ones are the record's own. A system message of its own is kept."""
    own = {"id": "own", "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}
    source, seen = (
        write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "prompt": "Hello?"}, {"id": "b", "prompt": "You?"}, own]),
        spy(monkeypatch),
    )
    flags = ("-m", tiny, *EXACT, "--format", format, "-c", "default", "--max-tokens", 4)
    here("sample", source, *flags, "--constitution-in-context", "all", "-o", tmp_path / "all.jsonl")
    principles = constitution.load("default").principles
    first, second, third = seen.requests
    assert all(str(principle.compare) in first.text for principle in principles)
    assert first.ids[: first.shared] == second.ids[: second.shared]
    assert first.shared > 100
    assert third.shared == 0
    assert "Be brief." in third.text
    rows = read_jsonl(tmp_path / "all.jsonl")
    assert [row["prompt"] for row in rows] == ["Hello?", "You?", own["prompt"]]
    assert rows[0]["meta"]["response"]["principles"] == [principle.id for principle in principles]

    seen.requests.clear()
    here("sample", source, *flags, "--constitution-in-context", 2, "-n", 2, "-o", tmp_path / "two.jsonl")
    for row, asked in zip(read_jsonl(tmp_path / "two.jsonl"), seen.requests[::2], strict=True):
        ids = row["meta"]["responses"][0]["principles"]
        assert {p.id for p in principles if str(p.compare) in asked.text} == set(ids)
        assert len(ids) == 2
    assert "give it, or leave them out" in here("sample", source, *flags, code=2).err
    assert "--constitution-in-context 99" in here("sample", source, *flags, "--constitution-in-context", 99, code=2).err
