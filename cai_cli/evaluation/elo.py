"""Ratings of models from comparisons of their answers: Bradley-Terry by maximum likelihood on soft wins (figures 2, 3 and 8).

A comparison says with which probability a model's answer is better than another's. In the model this is the logistic function of
the difference of the two models' strengths. An Elo rating is a strength times 400 / ln 10. Length control adds a term for the
difference of the answers' lengths, so that the strengths are those at equal lengths (as AlpacaEval and Chatbot Arena do).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np  # at the top it would slow the help of the commands

SCALE = 400 / math.log(10)
"""Elo points per unit of strength."""
RESAMPLES = 500
"""Bootstrap resamples of the prompts."""
PRIOR = 1e-3
"""The weight of a penalty on squared strengths: with it, a model that always wins has a finite rating. It moves other ratings by
less than a point (`tests/evaluation/test_elo.py` compares them with a fit without it), unless a judge is nearly certain on few
prompts."""


@dataclass(frozen=True)
class Comparison:
    """Two models' answers to one prompt."""

    prompt: str
    """The prompt's id."""
    first: str
    second: str
    p_first: float
    """The probability that the first model's answer is better."""
    lengths: tuple[int, int]
    """Of the two answers, in any unit."""
    group: str = ""
    """The group of the prompt, if prompts have groups."""


@dataclass(frozen=True)
class Rating:
    """A model's Elo rating minus that of the first model, with its 95% interval."""

    value: float
    low: float
    high: float


def strengths(design: np.ndarray, wins: np.ndarray, weights: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """The coefficients of the logistic regression of soft `wins` on the rows of `design`, by maximum likelihood.

    `start`: where the search begins, such as the coefficients of similar data.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        d = design @ x
        value = weights @ (np.logaddexp(0, d) - wins * d) + PRIOR * x @ x / 2
        return float(value), design.T @ (weights * (expit(d) - wins)) + PRIOR * x

    def curvature(x: np.ndarray) -> np.ndarray:
        p = expit(design @ x)
        return (design.T * (weights * p * (1 - p))) @ design + PRIOR * np.eye(len(x))

    start = np.zeros(design.shape[1]) if start is None else start
    # needs a third of the steps of L-BFGS-B
    return np.asarray(minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-6}).x)


def _design(comparisons: Sequence[Comparison], models: Sequence[str], length: bool) -> np.ndarray:
    """A row per comparison: 1 for its first model, -1 for its second; the first of `models` has no column, its strength is 0."""
    import numpy as np

    place = {model: i - 1 for i, model in enumerate(models)}
    rows = np.zeros((len(comparisons), len(models) - 1 + length))
    for row, each in zip(rows, comparisons, strict=True):
        for model, sign in ((each.first, 1), (each.second, -1)):
            if place[model] >= 0:
                row[place[model]] = sign
        if length:
            a, b = each.lengths
            row[-1] = (a - b) / max(1, a + b)
    return rows


def ratings(comparisons: Sequence[Comparison], models: Sequence[str], length: bool = False, seed: int = 0) -> dict[str, Rating]:
    """Each model's rating. The intervals are of a bootstrap over prompts, all of whose comparisons stay together.

    `length`: whether lengths are controlled for. The first of `models` has the rating 0.
    """
    import numpy as np

    design, wins = _design(comparisons, models, length), np.array([each.p_first for each in comparisons])
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(each.prompt for each in comparisons))}
    prompt = np.array([prompts[each.prompt] for each in comparisons])
    random, columns = np.random.default_rng(seed), len(models) - 1
    every = strengths(design, wins, np.ones(len(wins)))
    whole = every[:columns]
    samples = []
    for _ in range(RESAMPLES):
        taken = np.bincount(random.integers(0, len(prompts), len(prompts)), minlength=len(prompts))
        samples.append(strengths(design, wins, taken[prompt].astype(float), every)[:columns])
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    found = {models[0]: Rating(0.0, 0.0, 0.0)}
    return found | {
        model: Rating(*(float(SCALE * value) for value in three))
        for model, *three in zip(models[1:], whole, low, high, strict=True)
    }
