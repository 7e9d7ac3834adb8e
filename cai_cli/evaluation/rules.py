"""How well rules predict preferences, from the judge's votes on pairs whose better answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from cai_cli.data.jsonl import Record
from cai_cli.evaluation.intervals import mean_interval

SPEAKS = 0.1
"""A rule says something about a pair if the judge's probability is at least this far from 0.5."""


@dataclass(frozen=True)
class Measured:
    """How well a rule predicts preferences."""

    pairs: int
    accuracy: float
    """The share of the pairs in which it prefers the preferred answer; half of one that it does not decide."""
    low: float
    high: float
    support: float
    """The share of the pairs about which it says something."""

    def record(self) -> Record:
        """As a line of principles.jsonl holds it."""
        return vars(self).copy()


def measured(votes: Sequence[float], seed: int) -> Measured:
    """Measure a rule by its `votes`: for each pair the judge's probability of the preferred answer."""
    right = [0.5 if abs(p - 0.5) < SPEAKS else float(p > 0.5) for p in votes]
    return Measured(len(votes), *mean_interval(right, seed), fmean(abs(p - 0.5) >= SPEAKS for p in votes))
