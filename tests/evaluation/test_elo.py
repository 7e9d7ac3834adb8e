"""Bradley-Terry ratings: known strengths, soft wins, length control."""

from __future__ import annotations

import math
import random

import choix
import pytest

from cai_cli.evaluation.elo import SCALE, Comparison, ratings

TRUE = {"base": 0.0, "sft": 0.6, "rl": 1.3, "other": -0.8}


def comparisons(prompts: int, soft: bool, length: float = 0.0, seed: int = 0) -> list[Comparison]:
    """Every pair of models on every prompt. `length`: what the normalised difference of the lengths adds. rl's answers are long."""
    draw, found, names = random.Random(seed), [], list(TRUE)
    for prompt in range(prompts):
        sizes = {name: draw.randint(40, 60) * (3 if name == "rl" else 1) for name in names}
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                a, b = sizes[first], sizes[second]
                p = 1 / (1 + math.exp(TRUE[second] - TRUE[first] - length * (a - b) / (a + b)))
                found.append(Comparison(str(prompt), first, second, p if soft else float(draw.random() < p), (a, b)))
    return found


def test_known_strengths_are_within_their_intervals() -> None:
    found = ratings(comparisons(400, soft=False), list(TRUE))
    assert found["base"].value == 0
    for name, strength in list(TRUE.items())[1:]:
        assert found[name].low < SCALE * strength < found[name].high
        assert found[name].high - found[name].low < 100
    assert SCALE * math.log(10) == pytest.approx(400)  # 400 points are odds of ten to one


def test_soft_wins_give_the_strengths_exactly_and_length_control_removes_its_effect() -> None:
    exact = ratings(comparisons(30, soft=True), list(TRUE))
    assert {name: rating.value for name, rating in exact.items()} == pytest.approx(
        {name: SCALE * strength for name, strength in TRUE.items()}, abs=1
    )
    biased = comparisons(60, soft=True, length=2.0)
    assert ratings(biased, list(TRUE))["rl"].value > SCALE * TRUE["rl"] + 50  # its answers are longer
    assert ratings(biased, list(TRUE), length=True)["rl"].value == pytest.approx(SCALE * TRUE["rl"], abs=3)


def test_a_model_that_always_wins_has_a_finite_rating() -> None:
    found = ratings([Comparison(str(i), "a", "b", 0.0, (1, 1)) for i in range(10)], ["a", "b"])
    assert 500 < found["b"].value < 5000


def battles(count: int, seed: int = 3) -> list[dict[str, str]]:
    """Votes in the form of Chatbot Arena's public data, between twelve models; a third of them ties, of its two kinds."""
    draw = random.Random(seed)
    strength = {f"model-{i:02}": draw.gauss(0, 1) for i in range(12)}
    found = []
    for _ in range(count):
        a, b = draw.sample(list(strength), 2)
        won = "model_a" if draw.random() < 1 / (1 + math.exp(strength[b] - strength[a])) else "model_b"
        found.append({"model_a": a, "model_b": b, "winner": draw.choice([won, won, won, won, "tie", "tie (bothbad)"])})
    return found


def test_ratings_of_arena_battles_equal_those_of_choix() -> None:
    """choix's maximum likelihood, on each battle twice and a tie as a win for each, as Chatbot Arena counts them."""
    votes, won = battles(600), {"model_a": 1.0, "model_b": 0.0}
    models = sorted({vote[side] for vote in votes for side in ("model_a", "model_b")})
    pairs = []
    for vote in votes:
        a, b = models.index(vote["model_a"]), models.index(vote["model_b"])
        pairs += {"model_a": [(a, b)] * 2, "model_b": [(b, a)] * 2}.get(vote["winner"], [(a, b), (b, a)])
    want = choix.ilsr_pairwise(len(models), pairs) * SCALE
    found = ratings([Comparison(str(i), v["model_a"], v["model_b"], won.get(v["winner"], 0.5), (1, 1)) for i, v in enumerate(votes)],
                    models)  # fmt: skip
    assert [found[name].value for name in models] == pytest.approx(list(want - want[0]), abs=1)
