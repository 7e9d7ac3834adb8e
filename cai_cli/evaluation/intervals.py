"""Bootstrap intervals over records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np  # many commands import this module, and numpy takes as long as the rest of their help

RESAMPLES = 10_000
"""Resamples of a bootstrap."""
LARGE = 10_000
"""Above so many values, equal ones are drawn together, and so are neighbours where there are too many different ones."""
GROUPS = 2_000
"""The largest number of groups of values that are drawn together."""
_SLICE = 500
"""Resamples held in memory at once."""


def mean_interval(values: list[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the 95% percentile bootstrap interval of a mean, by resampling `values`.

    ValueError if there are none. For paired comparisons pass the differences. Memory: 25 bytes per value, and 100 MB.
    """
    if not values:
        raise ValueError("no values")
    import numpy as np

    data = np.asarray(values, dtype=float)
    random = np.random.default_rng(seed)
    if len(data) > LARGE:
        means = np.concatenate([*_grouped_means(data, random)])
    else:
        means = np.concatenate(
            [data[random.integers(0, len(data), (_SLICE, len(data)))].mean(1) for _ in range(RESAMPLES // _SLICE)]
        )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(data.mean()), float(low), float(high)


def groups(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count, mean, variance) of each of at most GROUPS groups of similar values: of equal ones, if that gives few enough."""
    import numpy as np

    ordered = np.sort(data)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    if len(starts) > GROUPS:
        starts = np.arange(GROUPS) * len(ordered) // GROUPS
    counts = np.diff(np.r_[starts, len(ordered)])
    means = np.add.reduceat(ordered, starts) / counts
    ordered -= np.repeat(means, counts)
    return counts, means, np.add.reduceat(ordered**2, starts) / counts


def _grouped_means(data: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    """The means of RESAMPLES resamples. How often a resample takes each group is multinomial, as if values were drawn singly.

    The sum of what it takes from a group of n values is then normal, by the central limit theorem.
    """
    import numpy as np

    counts, means, variances = groups(data)
    for _ in range(RESAMPLES // _SLICE):
        taken = random.multinomial(len(data), counts / len(data), size=_SLICE)
        noise = random.standard_normal(_SLICE) * np.sqrt(taken @ variances)
        yield (taken @ means + noise) / len(data)
