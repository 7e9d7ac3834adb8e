"""What a run's labels say about their judge."""

from __future__ import annotations

import pytest

from cai_cli.method.label_summary import LabelSummary


def summed(*orders: tuple[float, float], mass: float = 0.9) -> LabelSummary:
    """A summary of one label per (probability as (A), probability as (B)) of the first answer."""
    labels = LabelSummary()
    for ab, ba in orders:
        labels.count({"label": {"principles": ["p"], "p_first": (ab + ba) / 2, "orders": {"ab": ab, "ba": ba}, "mass": mass}})
    return labels


@pytest.mark.parametrize(
    ("flipped", "meaning"),
    [(10, "the order decides 100% of pairs: this judge cannot tell them apart"), (2, "keep --orders both"), (0, "not the order")],
)
def test_the_position_bias_says_what_it_means(flipped: int, meaning: str) -> None:
    labels = summed(*[(0.9, 0.2)] * flipped, *[(0.9, 0.8)] * (10 - flipped))
    assert meaning in labels.sentence()
    assert "in favour of (A)" in labels.sentence()
    assert not labels.warnings()


def test_a_judge_that_does_not_answer_with_a_letter_is_warned_of() -> None:
    labels = summed((0.6, 0.6), mass=0.002)
    labels.count({"label": {"principles": [], "p_first": 0.5, "orders": {}, "identical": True}})
    labels.count({"label": {"principles": ["p"], "p_first": 0.7, "orders": {"ab": 0.7}, "mass": 0.998, "cut": 3}})
    assert labels.summary()["letter_mass"] == {"mean": pytest.approx(0.5), "low": 1}
    assert labels.summary()["cut_reasoning"] == 3
    low, cut = labels.warnings()
    assert low.startswith("in 1 of 2 labels both letters together have under 1%")
    assert cut.startswith("3 queries without a letter")
    assert "1 pair of identical answers" in labels.sentence()
