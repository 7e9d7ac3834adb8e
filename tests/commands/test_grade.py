"""`cai grade`: the grades against plain forward passes, rubrics of files, constitutions and records."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError
from cai_cli.method import prompts, rubrics
from cai_cli.method.tokens import Renderer
from tests.conftest import Here
from tests.rows import pair, read_jsonl, revisions, write_jsonl
from tests.tiny import TRANSFORMERS

EXACT = (*TRANSFORMERS, "--dtype", "float32")
RESPONSES = [{"id": f"q{i}", "prompt": "Why?", "response": text} for i, text in enumerate(("Because.", "(A) [[[ I can't.", ""))]


def classes(
    model: Any, renderer: Renderer, record: Record, answer: str, criterion: rubrics.Criterion, order: int, cot: str | None = None
) -> dict[str, float]:
    """A plain forward pass: the probability of each class, with the classes as they are (1) or reversed (-1)."""
    names = list(criterion.classes)[::order]
    options = [criterion.classes[name] for name in names]
    make = prompts.grading if cot is None else prompts.grading_reasoning
    asked = make(record["prompt"], answer, criterion.question, options, "chat")
    request = renderer.choice(asked if cot is None else prompts.after_reasoning(asked, cot), prompts.LETTERS[: len(names)])
    with torch.no_grad():
        logits = model(torch.tensor([request.ids])).logits[0, -1]
    found = torch.softmax(logits[list((request.options or {}).values())], -1).tolist()
    return dict(zip(names, found, strict=True))


def test_a_grade_is_the_mean_of_the_classes_in_both_orders(here: Here, tiny: str, renderer: Renderer, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", RESPONSES), tmp_path / "out.jsonl"
    said = here("grade", source, "-m", tiny, *EXACT, "-r", "refusal", "-o", out).err
    model, found = AutoModelForCausalLM.from_pretrained(tiny).eval(), rubrics.load("refusal")
    for row in read_jsonl(out):
        for criterion in found.criteria:
            as_is, reversed_ = (classes(model, renderer, row, row["response"], criterion, order) for order in (1, -1))
            grade = row["grades"][criterion.id]
            assert list(grade) == list(criterion.classes)
            assert grade == pytest.approx({name: (as_is[name] + reversed_[name]) / 2 for name in grade}, abs=1e-4)
            first = next(iter(grade))
            assert row["meta"]["grades"][criterion.id]["orders"] == pytest.approx(
                {"ab": as_is[first], "ba": reversed_[first]}, abs=1e-4
            )
    mean = fmean(row["grades"]["refusal"]["full-compliance"] for row in read_jsonl(out))
    assert json.loads(Path(f"{out}.manifest.json").read_text())["summary"]["grades"]["refusal"] == pytest.approx(mean)
    assert f"refusal: mean {mean:.3f} over 3 answers" in said
    here("grade", out, "-m", tiny, *EXACT, "-o", tmp_path / "both.jsonl")  # a second rubric adds to the first
    assert list(read_jsonl(tmp_path / "both.jsonl")[0]["grades"]) == ["refusal", "reason", "harmless", "helpful", "honest"]


def test_several_answers_the_last_revision_and_reasoning(here: Here, tiny: str, renderer: Renderer, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [pair(1, "Yes.", "No."), revisions(1)[0]])
    how = ("-m", tiny, *EXACT, "--cot", "--keep-cut", "--max-tokens", 6, "--cot-samples", 2)
    here("grade", source, *how, "-o", tmp_path / "out.jsonl")
    two, revised = read_jsonl(tmp_path / "out.jsonl")
    model, [harmless, *_] = AutoModelForCausalLM.from_pretrained(tiny).eval(), rubrics.load("hhh").criteria
    cases = [(two, "Yes.", 0), (two, "No.", 1), (revised, revised["rounds"][-1]["revision"], None)]
    for row, answer, number in cases:
        grade, made = (
            found["harmless"] if number is None else found["harmless"][number] for found in (row["grades"], row["meta"]["grades"])
        )
        assert [entry["order"] for entry in made["reasoning"]] == ["ab", "ab", "ba", "ba"]
        for entry in made["reasoning"]:
            found = classes(model, renderer, row, answer, harmless, 1 if entry["order"] == "ab" else -1, entry["text"])
            assert entry["p"] == pytest.approx(found["yes"], abs=1e-4)
        assert grade["yes"] == pytest.approx(fmean(entry["p"] for entry in made["reasoning"]))
    cut = here("grade", source, "-m", tiny, *EXACT, "--cot", "--max-tokens", 2, "-o", tmp_path / "cut.jsonl", code=1).err
    assert "the judge's reasoning was cut by --max-tokens" in cut


def test_a_constitution_or_the_record_itself_gives_the_criteria(here: Here, tiny: str, tmp_path: Path) -> None:
    own = {
        **RESPONSES[0],
        "rubric": ["Is it short?", {"id": "tone", "question": "Tone?", "classes": {"good": "Kind.", "bad": "Rude."}}],
    }
    source = write_jsonl(tmp_path / "in.jsonl", [RESPONSES[1], own])
    here(
        "grade",
        source,
        "-m",
        tiny,
        *TRANSFORMERS,
        "-c",
        "single",
        "-o",
        tmp_path / "out.jsonl",
    )
    first, second = read_jsonl(tmp_path / "out.jsonl")
    assert list(first["grades"]) == ["do-what-is-best"]
    assert list(second["grades"]) == ["1", "tone"]
    assert list(second["grades"]["tone"]) == ["good", "bad"]
    bad = write_jsonl(tmp_path / "bad.jsonl", [{**own, "rubric": [{"id": "x", "question": ""}]}])
    assert (
        "bad.jsonl:1: 'rubric': the criterion 'x': 'question' must be a non-empty string"
        in here("grade", bad, "-m", tiny, code=2).err
    )
    weighted = tmp_path / "weighted.yaml"
    weighted.write_text("criteria: [{id: a, question: Good}, {id: b, question: Kind, weight: 3}]\n")
    said = here("grade", source, "-m", tiny, *TRANSFORMERS, "--limit", 1, "-r", weighted, "-o", tmp_path / "w.jsonl").err
    a, b = (read_jsonl(tmp_path / "w.jsonl")[0]["grades"][name]["yes"] for name in "ab")
    assert f"overall, by the criteria's weights: {(a + 3 * b) / 4:.3f}" in said
    none = write_jsonl(tmp_path / "none.jsonl", [{"id": "a", "prompt": "x", "responses": []}])
    assert "none.jsonl:1: nothing to grade" in here("grade", none, "-m", tiny, code=2).err
    assert "give it with -c" in here("grade", source, "-m", tiny, "--tags", "harm", code=2).err


BAD = {
    "[]": "must be a mapping with a non-empty list of 'criteria'",
    "criteria: []": "'criteria' must be a non-empty list",
    "criteria: [{question: Good}]": "criterion 1 must be a mapping with a non-empty string 'id'",
    "criteria: [{id: a, question: Good, scale: 5}]": "the criterion 'a' has an unknown field 'scale'",
    "criteria: [{id: a, question: Good, classes: {yes: Yes.}}]": "'classes' must be a mapping of two to 8 names to texts",
    "criteria: [{id: a, question: Good, weight: -1}]": "'weight' must be a positive number",
    "criteria: [{id: a, question: Good}, {id: a, question: Bad}]": "duplicate criterion id 'a'",
    "criteria: [": "not valid YAML",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_rubric_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=r"r\.yaml") as caught:
        rubrics.load(str(tmp_path / "r.yaml"))
    assert BAD[text] in str(caught.value)


def test_a_name_that_is_no_rubric_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="no rubric 'hh': give a file, or one of hhh, refusal"):
        rubrics.load("hh")
    for path in rubrics.packaged().values():
        assert rubrics.load(str(path)).criteria
