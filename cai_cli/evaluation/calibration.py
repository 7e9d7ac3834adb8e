"""How good probabilities are: accuracy, log loss, Brier score and calibration of a judge of pairs.

Everywhere `p` are the probabilities that a judge gave to the right answers of its pairs, [pairs].
"""

from __future__ import annotations

import numpy as np

from cai_cli.evaluation.intervals import RESAMPLES, mean_interval
from cai_cli.jsonl import Record

BINS = 10
"""Bins of equal width over the confidence, which runs from 0.5 to 1."""
LEAST = 1e-12
"""The least probability that log loss reckons with, so that one certain error isn't infinitely bad."""


def right(p: np.ndarray) -> np.ndarray:
    """1 where the right answer is the likelier one, 0.5 where they're even, else 0."""
    return np.where(p == 0.5, 0.5, (p > 0.5).astype(float))


def _sums(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per pair: the bin of its confidence max(p, 1 - p), the confidence, and whether it's right."""
    confidence = np.maximum(p, 1 - p)
    return np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1), confidence, right(p)


def expected_calibration_error(p: np.ndarray) -> float:
    """Mean gap between confidence and accuracy, over the bins, each by its share of the pairs (Naeini et al. 2015)."""
    bins, confidence, correct = _sums(p)
    gaps = np.bincount(bins, confidence - correct, BINS)
    return float(np.abs(gaps).sum() / len(p))


def reliability(p: np.ndarray) -> list[Record]:
    """The points of a reliability curve: `count`, mean `confidence` and `accuracy` of each bin that holds pairs."""
    bins, confidence, correct = _sums(p)
    return [
        {
            "low": 0.5 + b / 2 / BINS,
            "high": 0.5 + (b + 1) / 2 / BINS,
            "count": int((bins == b).sum()),
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(correct[bins == b].mean()),
        }
        for b in range(BINS)
        if (bins == b).any()
    ]


def measures(values: list[float], seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """{measure: (value, low, high)}, with 95% bootstrap intervals over the pairs. ValueError where there are none."""
    p = np.asarray(values, dtype=float)
    found = {
        "accuracy": mean_interval(right(p).tolist(), seed),
        "log_loss": mean_interval((-np.log(np.maximum(p, LEAST))).tolist(), seed),
        "brier": mean_interval(((1 - p) ** 2).tolist(), seed),
    }
    random = np.random.default_rng(seed)
    errors = np.array([expected_calibration_error(p[random.integers(0, len(p), len(p))]) for _ in range(RESAMPLES // 10)])
    error = expected_calibration_error(p)
    # noise adds to a sum of absolute gaps, in a resample once more than in the sample: that bias is taken out
    low, high = np.quantile(errors - (errors.mean() - error), [0.025, 0.975])
    return {**found, "ece": (error, max(0.0, min(float(low), error)), max(float(high), error))}
