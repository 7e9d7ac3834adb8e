"""Bootstrap intervals."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cai_cli.evaluation import calibration, intervals
from cai_cli.evaluation.intervals import mean_interval


def test_an_interval_covers_the_mean_at_its_stated_rate() -> None:
    draw = random.Random(0)
    hits = 0
    for seed in range(200):
        _, low, high = mean_interval([draw.gauss(1, 2) for _ in range(50)], seed)
        hits += low <= 1 <= high
    assert 180 <= hits <= 199


@pytest.mark.parametrize("kind", ["normal", "few successes", "heavy tail"])
def test_many_values_give_the_interval_that_drawing_them_singly_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    values = {
        "normal": random.normal(1, 2, 9000),
        "few successes": (np.arange(9000) < 12).astype(float),
        "heavy tail": random.pareto(3.0, 9000),
    }[kind].tolist()
    mean, low, high = mean_interval(values)
    monkeypatch.setattr(intervals, "LARGE", 100)
    monkeypatch.setattr(intervals, "GROUPS", 200)
    grouped = mean_interval(values)
    assert grouped[0] == mean
    assert grouped[1:] == pytest.approx((low, high), abs=0.05 * (high - low))


def test_calibration_of_many_pairs_has_the_interval_that_drawing_them_singly_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    belief = random.uniform(0.2, 1.0, 6000)
    p = np.where(random.uniform(size=6000) < belief, belief, 1 - belief)
    error, low, high = calibration.measures(p.tolist())["ece"]
    monkeypatch.setattr(calibration, "LARGE", 100)
    grouped = calibration.measures(p.tolist())["ece"]
    assert grouped[0] == error
    assert grouped[1:] == pytest.approx((low, high), abs=0.15 * (high - low))
