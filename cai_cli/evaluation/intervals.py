"""Bootstrap intervals over records."""

from __future__ import annotations

import numpy as np

RESAMPLES = 10_000
"""Resamples of a bootstrap."""


def mean_interval(values: list[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the 95% percentile bootstrap interval of a mean, by resampling `values`.

    ValueError if there are none. For paired comparisons pass the differences.
    """
    if not values:
        raise ValueError("no values")
    data = np.asarray(values, dtype=float)
    random = np.random.default_rng(seed)
    means = np.concatenate(  # in slices, to limit memory
        [data[random.integers(0, len(data), (size, len(data)))].mean(1) for size in [RESAMPLES // 20] * 20]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(data.mean()), float(low), float(high)
