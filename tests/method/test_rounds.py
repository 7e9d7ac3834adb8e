"""Rounds of critique and revision: draws, several rounds in one process, flagged texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl
from tests.tiny import EXACT, TRANSFORMERS


def test_chained_rounds_draw_their_own_principles_and_repeat_byte_for_byte(
    here: Here, prompts: str, tiny: str, tmp_path: Path
) -> None:
    def chain(name: str) -> Path:
        steps = [tmp_path / f"{name}-{i}.jsonl" for i in range(5)]
        here("sample", prompts, "-m", tiny, *EXACT, "-o", steps[0])
        for i, command in enumerate(["critique", "revise", "critique", "revise"]):
            here(command, steps[i], "-m", tiny, *EXACT, "--few-shot", 1, "-o", steps[i + 1])
        return steps[-1]

    first, second = chain("a"), chain("b")
    assert first.read_bytes() == second.read_bytes()
    rows = read_jsonl(first)
    assert all([set(r) for r in row["rounds"]] == [{"principle", "critique", "revision", "flags", "meta"}] * 2 for row in rows)
    assert any(row["rounds"][0]["principle"] != row["rounds"][1]["principle"] for row in rows)
    assert len({row["rounds"][0]["principle"] for row in rows}) > 3


@pytest.mark.parametrize(("format", "rounds"), [("chat", 2), ("hh", 3)])
def test_rounds_in_one_process_equal_chained_commands_byte_for_byte(
    here: Here, prompts: str, tiny: str, tmp_path: Path, format: str, rounds: int
) -> None:
    how = ("-m", tiny, *EXACT, "--format", format, "--few-shot", 1, "--retry", 1)
    names = [tmp_path / f"{i}.jsonl" for i in range(2 * rounds + 1)]
    here("sample", prompts, "-m", tiny, *EXACT, "-o", names[0])
    for i, command in enumerate(["critique", "revise"] * rounds):
        here(command, names[i], *how, "-o", names[i + 1])
    here("revise", names[0], *how, "--from-response", "--rounds", rounds, "-o", tmp_path / "whole.jsonl")
    assert (tmp_path / "whole.jsonl").read_bytes() == names[-1].read_bytes()
    assert any(entry["flags"] for row in read_jsonl(names[-1]) for entry in row["rounds"])  # eight tokens are too few


def test_a_flagged_text_is_sampled_again(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    responses = write_jsonl(tmp_path / "r.jsonl", [{**row, "response": "Hi."} for row in read_jsonl(prompts)])
    options = ("-m", tiny, *TRANSFORMERS, "--dtype", "float32", "--few-shot", 0, "--max-tokens", 60)
    once, again = (
        [row["rounds"][0] for row in map(json.loads, here("critique", responses, *options, "--retry", n).out.splitlines())]
        for n in (0, 4)
    )
    taken = [i for i, entry in enumerate(again) if entry["meta"]["critique"].get("attempt")]
    assert taken
    assert all(len(again[i]["flags"]) < len(once[i]["flags"]) for i in taken)
    assert all(again[i] == once[i] for i in range(12) if i not in taken)


def test_a_dry_run_of_rounds_marks_what_depends_on_earlier_texts(here: Here, broken_model: str, tmp_path: Path) -> None:
    responses = write_jsonl(tmp_path / "r.jsonl", [{"id": "a", "prompt": "Hello?", "response": "Hi."}])
    out = here("revise", responses, "-m", broken_model, "--from-response", "--rounds", 2, "--few-shot", 0, "--dry-run", 9).out
    shown = [json.loads(line) for line in out.splitlines()]
    assert [row.get("depends_on_earlier_text", False) for row in shown] == [False, True, True, True]
    assert "<the text of request 1>" in shown[1]["text"]
    assert "Hi." in shown[1]["text"]
    assert "<the text of request 2>" in shown[2]["text"]
    assert "Hi." not in shown[2]["text"]


def test_finished_rounds_are_kept_when_a_later_one_does_not_fit(here: Here, tiny: str, tmp_path: Path) -> None:
    config = json.loads((Path(tiny) / "config.json").read_text())
    small = tmp_path / "small"
    shutil.copytree(tiny, small)
    responses = write_jsonl(tmp_path / "r.jsonl", [{"id": "a", "prompt": "Hello?", "response": "Hi."}])
    exact = (*TRANSFORMERS, "--dtype", "float32", "--format", "hh", "--few-shot", 0, "--max-tokens", 100)
    [row] = (json.loads(line) for line in here("revise", responses, "-m", tiny, *exact, "--from-response").out.splitlines())
    used = row["rounds"][0]["meta"]["revision"]["prompt_tokens"] + 100
    (small / "config.json").write_text(json.dumps({**config, "max_position_embeddings": used + 20}))
    here("revise", responses, "-m", small, *exact, "--from-response", "--rounds", 6, "-o", tmp_path / "out.jsonl", code=1)
    [skipped] = read_jsonl(tmp_path / "out.jsonl.skipped.jsonl")
    assert "exceed the model's context" in skipped["error"]
    assert skipped["record"]["rounds"][0] == row["rounds"][0]
