"""Few-shot examples of a comparison, and what is made of the judge's answers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_cli.data import records
from cai_cli.engines.base import Choice
from cai_cli.method import constitution, feedback, prompts
from cai_cli.method.constitution import Principle
from cai_cli.method.feedback import Query
from cai_cli.method.prompts import OPTIONS
from cai_cli.method.tokens import Renderer


@pytest.mark.parametrize("format", ["chat", "hh"])
def test_few_shot_examples_come_first_and_are_shared(format: str, renderer: Renderer) -> None:
    found = constitution.load(constitution.DEFAULT)
    shown = feedback.shown_comparisons(found, None, 0, 3)
    assert sorted(letter for _, letter in shown) == ["A", "A", "B", "B"]
    for count in (1, 3):
        letters = [letter for n in range(16) for _, letter in feedback.shown_comparisons(found, count, 0, n)]
        assert 0.3 < letters.count("A") / len(letters) < 0.7
    asked = [prompts.comparison(f"Question {i}?", "Yes.", "No.", found.principles[i], format, shown) for i in range(2)]
    requests = [renderer.choice(prompt, OPTIONS) for prompt in asked]
    shared = requests[0].shared
    assert shared == requests[1].shared > 200
    assert requests[0].ids[:shared] == requests[1].ids[:shared]
    text = renderer.tokenizer.decode(requests[0].ids[:shared])
    assert text.count("The answer is: (") == 4
    assert "Question" not in text
    assert len({feedback.shown_comparisons(found, None, 0, n)[0][0] for n in range(16)}) > 4  # each draws its own principle
    assert feedback.shown_comparisons(found, 2, 0, 3)[0][0].startswith("\n\nConsider")


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_label_is_the_mean_of_both_orders(ab: float, ba: float) -> None:
    pair = {"id": "a", "prompt": "Hello?", "responses": ["first", "second"], "extra": 1}
    queries = [Query((0, 1), Principle("kind", compare="x"), order, p_first=p) for order, p in (("ab", ab), ("ba", ba))]
    got = feedback.preference(pair, (0, 1), feedback.label(queries), {})
    favours_first = (ab + ba) / 2 >= 0.5
    assert got["chosen"][0]["content"] == ("first" if favours_first else "second")
    assert got["rejected"][0]["content"] == ("second" if favours_first else "first")
    assert got["p_chosen"] == pytest.approx(max((ab + ba) / 2, 1 - (ab + ba) / 2))
    assert got["label"]["orders"] == {"ab": ab, "ba": ba}
    assert (got["id"], got["source_id"], got["extra"]) == ("a/0-1", "a", 1)
    assert records.preference_error(got) is None


@pytest.mark.parametrize(("p", "better"), [(0.8, "first"), (0.2, "second")])
def test_the_answer_that_is_more_likely_the_better_one_is_chosen(p: float, better: str) -> None:
    pair = {"id": "a", "prompt": "Hello?", "responses": ["first", "second"]}
    label = feedback.label([Query((0, 1), Principle("kind", compare="x"), "ab", p_first=p)])
    assert feedback.preference(pair, (0, 1), label, {})["chosen"][0]["content"] == better


def test_in_the_other_order_the_first_answer_is_b() -> None:
    choice = Choice({"A": math.log(0.9), "B": math.log(0.1)}, 1)
    for order, p in (("ab", 0.9), ("ba", 0.1)):
        assert Query((0, 1), Principle("kind", compare="x"), order).answered(choice, None).p_first == pytest.approx(p)


def test_probabilities_of_options_are_renormalised_and_survive_extremes() -> None:
    assert feedback.normalise({"A": -1.0, "B": -1.0}) == {"A": 0.5, "B": 0.5}
    assert feedback.normalise({"A": -1000.0, "B": -2000.0}) == {"A": 1.0, "B": 0.0}
