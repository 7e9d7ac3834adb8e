"""The report on a preference model: accuracy and length bias."""

from __future__ import annotations

import numpy as np
import pytest

from cai_cli.evaluation import pm_report
from cai_cli.training.pm import ScoredPair


def test_length_bias_is_shown() -> None:
    """A model that always prefers the longer answer is right on one kind of pair and wrong on the other."""
    pairs = [
        ScoredPair("a" if i % 2 else "b", 1.0, margin=float(np.sign(n)), longer=n) for i, n in enumerate([50] * 6 + [-50] * 4)
    ]
    rows = {row["group"]: row for row in pm_report.report([*pairs, ScoredPair("a", 0.5, 3.0, 0)])}
    assert rows["all"]["pairs"] == 11
    assert rows["all"]["even"] == 1
    assert rows["all"]["accuracy"][0] == 0.6
    assert rows["the better answer is longer"]["accuracy"][0] == 1.0
    assert rows["the better answer is shorter"]["accuracy"][0] == 0.0
    assert rows["all"]["prefers_longer"] == 1.0
    assert rows["all"]["labels_longer"] == 0.6
    assert set(rows) >= {"a", "b"}
    assert pm_report.log_loss(ScoredPair("a", 0.5, 0.0, 0)) == pytest.approx(np.log(2))
    assert pm_report.log_loss(ScoredPair("a", 1.0, -2000.0, 0)) == pytest.approx(2000)
