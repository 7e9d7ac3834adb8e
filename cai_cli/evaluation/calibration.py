"""The quality of probabilities: accuracy, log loss, Brier score and calibration of a judge of pairs (paper, figure 9).

In every function, `p` [pairs] holds the probability that the judge gave to the right answer of each pair.
"""

from __future__ import annotations

import numpy as np

from cai_cli.data.jsonl import Record
from cai_cli.evaluation.intervals import LARGE, RESAMPLES, mean_interval

BINS = 10
"""Bins of equal width over the confidence, from 0.5 to 1."""
LEAST = 1e-12
"""The lowest probability in the log loss, so that a single certain error does not make it infinite."""


def right(p: np.ndarray) -> np.ndarray:
    """Per pair: 1 if the right answer is more likely, 0.5 if both are equally likely, else 0."""
    return np.where(p == 0.5, 0.5, (p > 0.5).astype(float))


def _sums(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per pair: the bin of its confidence, the confidence max(p, 1 - p), and `right`."""
    confidence = np.maximum(p, 1 - p)
    return np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1), confidence, right(p)


def expected_calibration_error(p: np.ndarray) -> float:
    """The mean over bins of the gap between confidence and accuracy, weighted by their numbers of pairs (Naeini et al. 2015)."""
    bins, confidence, correct = _sums(p)
    gaps = np.bincount(bins, confidence - correct, BINS)
    return float(np.abs(gaps).sum() / len(p))


def reliability(p: np.ndarray) -> list[Record]:
    """The points of a reliability curve: bounds, `count`, mean `confidence` and `accuracy` of each bin that is not empty."""
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


def _resampled_errors(p: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`expected_calibration_error` of RESAMPLES / 10 resamples of the pairs.

    Of many pairs, a resample takes a multinomial number from each bin, and the sum of the gaps in a bin is then normal.
    """
    size = RESAMPLES // 10
    if len(p) <= LARGE:
        return np.array([expected_calibration_error(p[random.integers(0, len(p), len(p))]) for _ in range(size)])
    bins, confidence, correct = _sums(p)
    gaps = confidence - correct
    counts = np.bincount(bins, minlength=BINS)
    means, squares = (np.bincount(bins, part, BINS) / np.maximum(counts, 1) for part in (gaps, gaps**2))
    taken = random.multinomial(len(p), counts / len(p), size=size)
    noise = random.standard_normal(taken.shape) * np.sqrt(taken * np.maximum(squares - means**2, 0))
    return np.abs(taken * means + noise).sum(1) / len(p)


def measures(values: list[float], seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """{measure: (value, low, high)}, with 95% bootstrap intervals over the pairs. ValueError if there are none."""
    p = np.asarray(values, dtype=float)
    found = {
        "accuracy": mean_interval(right(p).tolist(), seed),
        "log_loss": mean_interval((-np.log(np.maximum(p, LEAST))).tolist(), seed),
        "brier": mean_interval(((1 - p) ** 2).tolist(), seed),
    }
    errors = _resampled_errors(p, np.random.default_rng(seed))
    error = expected_calibration_error(p)
    # noise enlarges absolute gaps, so the resamples' mean is above the sample's value: subtract this bias
    low, high = np.quantile(errors - (errors.mean() - error), [0.025, 0.975])
    return {**found, "ece": (error, max(0.0, min(float(low), error)), max(float(high), error))}
