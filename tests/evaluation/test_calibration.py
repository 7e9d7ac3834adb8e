"""How well probabilities match outcomes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cai_cli.evaluation.calibration import measures, reliability


def test_measures_of_known_probabilities() -> None:
    values = [0.9] * 9 + [0.1]  # says 0.9 each time, and is right nine times in ten
    found = measures(values)
    assert found["accuracy"][0] == 0.9
    assert found["ece"][0] == pytest.approx(0.0, abs=1e-9)
    assert found["log_loss"][0] == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))
    assert found["brier"][0] == pytest.approx(0.9 * 0.01 + 0.1 * 0.81)
    assert measures([0.1] * 10)["ece"][0] == pytest.approx(0.9)
    p = np.random.default_rng(0).uniform(0.5, 1, 100)
    value, low, high = measures(np.where(np.random.default_rng(1).uniform(size=100) < p, p, 1 - p).tolist())["ece"]
    assert low <= value <= high
    assert measures([0.5] * 4)["accuracy"][0] == 0.5
    [point] = reliability(np.asarray(values))
    assert point["count"] == 10
    assert point["confidence"] == pytest.approx(0.9)
    assert point["accuracy"] == pytest.approx(0.9)
    low, high = measures([0.9, 0.2, 0.7, 0.4] * 10)["accuracy"][1:]
    assert 0.3 < low < 0.5 < high < 0.7
