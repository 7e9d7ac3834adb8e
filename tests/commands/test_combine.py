"""`cai combine`: the mean of several judges, what is chosen, and their agreement."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_cli.data.jsonl import Record
from cai_cli.data.records import assistant
from cai_cli.evaluation.agreement import agreement
from cai_cli.pipeline import manifest
from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl


def preference(number: int, p: float) -> Record:
    sides = [[assistant("first")], [assistant("second")]]
    best, worst = sides if p >= 0.5 else sides[::-1]
    label = {"pair": [0, 1], "principles": ["x"], "p_first": p, "orders": {"ab": p, "ba": p}}
    return {"id": str(number), "prompt": "Hi", "chosen": best, "rejected": worst, "p_chosen": max(p, 1 - p), "label": label}


def test_labels_become_their_mean_and_may_change_sides(here: Here, tmp_path: Path) -> None:
    a = write_jsonl(tmp_path / "a.jsonl", [preference(i, p) for i, p in enumerate((0.9, 0.6, 0.2, 0.5))])
    b = write_jsonl(tmp_path / "b.jsonl", [preference(i, p) for i, p in enumerate((0.7, 0.1, 0.4))])
    done = here("combine", f"one={a}", f"two={b}", "-o", tmp_path / "out.jsonl")
    made = read_jsonl(tmp_path / "out.jsonl")
    assert [row["label"]["p_first"] for row in made] == pytest.approx([0.8, 0.35, 0.3])
    assert [row["p_chosen"] for row in made] == pytest.approx([0.8, 0.65, 0.7])
    assert [row["chosen"][0]["content"] for row in made] == ["first", "second", "second"]
    assert made[1]["label"]["judges"] == {"one": 0.6, "two": 0.1}
    assert "1 record left out: not in every file" in done.err
    found = manifest.read(f"{tmp_path / 'out.jsonl'}.manifest.json")["summary"]["agreement"]["label"]
    assert found["all_agree"] == pytest.approx(2 / 3)
    assert found["kappa"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))


def test_grades_become_their_mean_per_class(here: Here, tmp_path: Path) -> None:
    def graded(name: str, *ps: float, **more: object) -> str:
        rows = [
            {"id": str(i), "prompt": "Hi", "response": "Yes.", "grades": {"kind": {"yes": p, "no": 1 - p}, **more}}
            for i, p in enumerate(ps)
        ]
        return write_jsonl(tmp_path / f"{name}.jsonl", rows)

    a, b = graded("a", 0.9, 0.4, only={"yes": 1.0, "no": 0.0}), graded("b", 0.5, 0.2)
    here("combine", a, b, "-o", tmp_path / "out.jsonl")
    first, second = read_jsonl(tmp_path / "out.jsonl")
    assert first["grades"] == {"kind": pytest.approx({"yes": 0.7, "no": 0.3})}
    assert second["meta"]["grades"]["judges"]["kind"]["b"] == {"yes": 0.2, "no": 0.8}
    raw = write_jsonl(tmp_path / "raw.jsonl", [{"id": "0", "prompt": "Hi", "response": "Yes."}])
    assert "run `cai label` or `cai grade` first" in here("combine", a, raw, code=2).err
    assert "give the files of at least two judges" in here("combine", a, code=2).err


def test_agreement_of_three_judges_is_the_mean_of_their_pairs() -> None:
    found = agreement([list("aabb"), list("aabb"), list("abab")])
    assert found == {"answers": 4, "all_agree": 0.5, "kappa": pytest.approx((1 + 0 + 0) / 3)}


def test_a_label_without_its_answers_is_named(here: Here, tmp_path: Path) -> None:
    rows = [{key: value for key, value in preference(0, 0.9).items() if key != "rejected"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert "a.jsonl:1: no 'rejected' field" in here("combine", f"one={path}", f"two={path}", "-o", tmp_path / "out", code=2).err
