"""`cai eval compare`: which answers are compared, by what, and that a second run asks nothing."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from cai_cli.commands.eval_compare import drawn_pairs, pairs, read_answers
from cai_cli.pipeline import manifest
from tests.conftest import Here
from tests.resuming import count_requests
from tests.rows import read_jsonl, write_jsonl
from tests.tiny import TRANSFORMERS


def answers(tmp_path: Path, name: str, text: str, score: float | None = None) -> str:
    rows = [
        {"id": f"q{i}", "prompt": f"What is {i}?", "response": f"{text} {i}", "topic": ["even", "odd"][i % 2]} for i in range(4)
    ]
    scored = [{**row, "scores": {"response": score + i}} for i, row in enumerate(rows)] if score is not None else rows
    return write_jsonl(tmp_path / f"{name}.jsonl", scored)


def test_answers_are_compared_under_each_criterion_and_rated(
    here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, rl = answers(tmp_path, "base", "I think it is", 0.0), answers(tmp_path, "rl", "It is", 1.0)
    command = ("eval", "compare", base, f"new={rl}", "-m", tiny, *TRANSFORMERS, "--few-shot", 0, "-o", tmp_path / "out.jsonl")
    done = here(*command, "--table", tmp_path / "rows.jsonl")
    made = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in made] == [f"q{i}/base-new" for i in range(4)]
    assert made[0]["responses"] == ["I think it is 0", "It is 0"]
    assert list(made[0]["comparisons"]) == ["harmless", "helpful"]
    assert made[0]["comparisons"]["helpful"]["principles"][0] in ("does-what-was-asked", "correct", "clear", "engaged")
    rows = {(row["criterion"], row["model"]): row for row in read_jsonl(tmp_path / "rows.jsonl")}
    assert set(rows) == {(criterion, model) for criterion in ("harmless", "helpful", "PM score") for model in ("base", "new")}
    assert rows["helpful", "base"]["elo"]["value"] == 0
    assert rows["PM score", "new"]["elo"]["value"] == pytest.approx(400 / 2.302585, abs=1)  # odds of e
    assert rows["PM score", "new"]["words"] == 3
    assert "at equal length" in done.out
    assert "position bias" in done.err
    with monkeypatch.context() as patch:
        requests = count_requests(patch)
        again = here(*command)
        assert not requests
    assert again.out == done.out
    assert "the choices by harmless and helpful have a correlation of" in again.err
    grouped = here(*command, "--by", "topic", "--table", tmp_path / "rows.jsonl")
    by_group = {(row["prompts"], row["criterion"], row["model"]): row for row in read_jsonl(tmp_path / "rows.jsonl")}
    assert len(by_group) == 3 * 3 * 2
    assert [by_group[group, "helpful", "new"]["comparisons"] for group in ("all", "even", "odd")] == [4, 2, 2]
    assert "all      new" in grouped.out
    assert "give the answers of at least two models" in here("eval", "compare", base, "-m", tiny, code=2).err


def test_many_models_are_compared_in_drawn_circles() -> None:
    four, many = list("abcd"), [str(i) for i in range(9)]
    assert drawn_pairs(four, 0, "q") == list(combinations(four, 2))
    plans = [drawn_pairs(many, 0, f"q{i}") for i in range(200)]
    assert all(len(plan) == 9 for plan in plans)
    for plan in plans:  # each model twice
        assert sorted(name for pair in plan for name in pair) == sorted(many * 2)
    assert len({frozenset(pair) for plan in plans for pair in plan}) == 36  # every two of them meet
    assert drawn_pairs(many, 0, "q1") == plans[1] != drawn_pairs(many, 1, "q1")


def test_predicted_ratings_are_no_second_opinion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {name: answers(tmp_path, name, "It is", 1.0) for name in ("base", "rl")}
    assert "pm" in next(pairs(read_answers(paths, None), 0))
    manifest.write(f"{paths['rl']}.manifest.json", {"step": "score", "model": {"name": "pm", "target": "score"}})
    assert "pm" not in next(pairs(read_answers(paths, None), 0))
    assert "rl.jsonl: its scores predict ratings" in capsys.readouterr().err
