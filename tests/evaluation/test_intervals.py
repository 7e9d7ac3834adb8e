"""Bootstrap intervals."""

from __future__ import annotations

import random

from cai_cli.evaluation.intervals import mean_interval


def test_an_interval_covers_the_mean_at_its_stated_rate() -> None:
    draw = random.Random(0)
    hits = 0
    for seed in range(200):
        _, low, high = mean_interval([draw.gauss(1, 2) for _ in range(50)], seed)
        hits += low <= 1 <= high
    assert 180 <= hits <= 199
