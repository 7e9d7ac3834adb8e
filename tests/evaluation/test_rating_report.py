"""The report of a scorer on held-out ratings, against values computed by hand."""

from __future__ import annotations

import pytest

from cai_cli.evaluation.rating_report import report, table
from cai_cli.streams import print_table
from cai_cli.training.ratings import ScoredRating


def test_the_error_is_compared_with_that_of_the_mean(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [(0, 0.5), (1, 1.5), (3, 2.0), (4, 3.5), (2, 2.5)]
    rows = report([ScoredRating("a.jsonl" if i < 3 else "b [x]", *pair) for i, pair in enumerate(pairs)])
    whole = rows[0]
    assert [row["conversations"] for row in rows] == [5, 3, 2]
    assert whole["squared_error"][0] == pytest.approx((0.25 + 0.25 + 1 + 0.25 + 0.25) / 5)
    assert whole["squared_error"][1] < whole["squared_error"][0] < whole["squared_error"][2]
    assert whole["of_the_mean"] == pytest.approx(2)
    assert whole["correlation"][0] == pytest.approx(1.3 / (2**0.5 * 1))  # the covariance over both standard deviations
    assert -1 <= whole["correlation"][1] < whole["correlation"][0] < whole["correlation"][2] <= 1
    assert "correlation" not in rows[2]  # two points lie on a line
    print_table(table(rows))
    assert "b [x]" in capsys.readouterr().out


def test_equal_ratings_have_no_correlation() -> None:
    [row] = report([ScoredRating("a", 1, score) for score in (0.1, 0.2, 0.3, 0.4, 0.5)])
    assert row["of_the_mean"] == 0
    assert "correlation" not in row
