"""`cai export`: TRL's columns, flagged rounds, ties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data.jsonl import Record
from cai_cli.data.records import assistant, user
from tests.conftest import Here
from tests.rows import flagged, read_jsonl, revisions, write_jsonl


def test_revisions_are_exported_and_flagged_ones_left_out_by_count(here: Here, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", flagged())

    def exported(*options: object) -> list[str]:
        done = here("export", "sft", source, *options)
        rows = [json.loads(line) for line in done.out.splitlines()]
        return [row["completion"][0]["content"] for row in rows] + [done.err.strip().partition("; ")[2]]

    assert exported() == ["First.", "Second.", "Me.", ""]
    assert exported("--revisions", "last") == ["Second.", "Me.", ""]
    assert exported("--drop-flags", "unchanged") == ["Second.", "Me.", "1 round left out (revision-unchanged 1)"]
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
            "rejected": [{"role": "assistant", "content": "No."}], "p_chosen": 0.7, "label": {"pair": [0, 1]}, "source_id": "a"}  # fmt: skip
    here("export", "preferences", write_jsonl(tmp_path / "p.jsonl", [pair]), "-o", tmp_path / "trl.jsonl")
    [row] = load_dataset("json", data_files=str(tmp_path / "trl.jsonl"), split="train")
    assert is_conversational(row)
    assert set(row) == {"id", "source_id", "prompt", "chosen", "rejected", "p_chosen"}


def test_ties_are_dropped_or_weighted_at_export_and_counted(here: Here, tmp_path: Path) -> None:
    turn = [{"role": "assistant", "content": "x"}]
    rows: list[Record] = [
        {"id": str(p), "prompt": "Hi", "chosen": turn, "rejected": turn, "p_chosen": p} for p in (0.5, 0.52, 0.6, 1.0)
    ]
    rows[-1]["weight"] = 0.5
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    done = here("export", "preferences", source, "--min-margin", 0.05, "--weigh", "-o", tmp_path / "out")
    assert "2 preferences; 1 tie and 1 near-tie left out" in done.err
    assert [row["weight"] for row in read_jsonl(tmp_path / "out")] == [pytest.approx(0.2), 0.5]
    done = here("export", "preferences", source, "--min-margin", 0.1, "-o", tmp_path / "out")
    assert [row["p_chosen"] for row in read_jsonl(tmp_path / "out")] == [0.6, 1.0]
    assert "1 tie with weight 0" in here("export", "preferences", source, "--weigh", "-o", tmp_path / "out").err


def test_revisions_and_scores_become_preferences(here: Here, tmp_path: Path) -> None:
    made = [*revisions(2), {"id": "none", "prompt": "Hi", "response": "Yes."}]
    source = write_jsonl(tmp_path / "in.jsonl", [{**made[0], "kind": "k"}, *made[1:]])
    done = here("export", "preferences", source, "--from", "revisions", "-o", tmp_path / "out")
    first = read_jsonl(tmp_path / "out")[0]
    assert first == {
        "id": "s0/revisions", "source_id": "s0", "kind": "k", "prompt": [user("What is 0 plus 0?")], "chosen": [assistant("It is 0, I think.")],
        "rejected": [assistant("I will not say.")], "p_chosen": 1.0,
    }  # fmt: skip
    assert "2 preferences; 1 (no revision that differs from the response) left out" in done.err

    scored = {"id": "a", "prompt": "Hi", "responses": ["bad", "best", "good"], "scores": {"responses": [-1.0, 2.5, 1.0]}}
    even = {**scored, "id": "b", "scores": {"responses": [0.5, 0.5, 0.5]}}
    done = here("export", "preferences", write_jsonl(tmp_path / "s.jsonl", [scored, even]), "--from", "scores")
    [row] = [json.loads(line) for line in done.out.splitlines()]
    assert (row["chosen"], row["rejected"], row["source_id"]) == ([assistant("best")], [assistant("bad")], "a")
    unscored = write_jsonl(tmp_path / "u.jsonl", [{**scored, "scores": {"responses": [1.0]}}])
    assert "run `cai score` first" in here("export", "preferences", unscored, "--from", "scores", code=2).err


def test_every_form_of_a_preference_is_exported_with_its_prompt_once(here: Here, shared: Path) -> None:
    for name in ("whole-conversations", "no-prompt"):
        [line] = here("export", "preferences", shared / "cases" / f"{name}.jsonl").out.splitlines()
        row = json.loads(line)
        assert (row["prompt"], row["chosen"]) == ([user("What is 2+2?")], [assistant("Four.")])
        assert row["rejected"] == [assistant("Five.")]


def test_truncated_answers_and_tool_turns_are_left_out(here: Here, shared: Path) -> None:
    done = here("export", "sft", shared / "cases" / "cut-answers.jsonl")
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["b/1"]
    assert "1 truncated answer left out (--keep-cut exports them)" in done.err
    assert len(here("export", "sft", shared / "cases" / "cut-answers.jsonl", "--keep-cut").out.splitlines()) == 2
    done = here("export", "sft", shared / "cases" / "tools.jsonl")
    assert len(done.out.splitlines()) == 1
    assert "it has tool calls" in done.err
    reasoned = here("export", "sft", shared / "cases" / "reasoning.jsonl").out
    assert "brief" not in reasoned


def test_answers_below_a_grade_are_left_out(here: Here, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"id": str(i), "prompt": "Hi", "response": "Yes.", "grades": {"kind": {"yes": p, "no": 1 - p}}}
        for i, p in enumerate((0.9, 0.4))
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    done = here("export", "sft", source, "--min-grade", "kind=0.5", "-o", tmp_path / "out.jsonl")
    assert [row["source_id"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["0"]
    assert "1 answer below --min-grade left out" in done.err
    assert (
        "no grade 'harmless' of its answer: run `cai grade` first"
        in here("export", "sft", source, "--min-grade", "harmless=0.5", code=2).err
    )
    several: dict[str, Any] = {
        "id": "x",
        "prompt": "Hi",
        "responses": ["Yes.", "No."],
        "grades": {"kind": [row["grades"]["kind"] for row in rows]},
    }
    write_jsonl(tmp_path / "in.jsonl", [several])
    here("export", "sft", source, "--min-grade", "kind=0.5", "-o", tmp_path / "out.jsonl")
    assert [row["completion"][0]["content"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["Yes."]
    write_jsonl(tmp_path / "in.jsonl", [{**several, "grades": {"kind": several["grades"]["kind"][:1]}}])
    assert "no grade 'kind' of its answer" in here("export", "sft", source, "--min-grade", "kind=0.5", code=2).err
    assert "write CRITERION=P" in here("export", "sft", source, "--min-grade", "kind", code=2).err
