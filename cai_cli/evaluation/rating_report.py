"""How well a scorer predicts the ratings of held-out conversations, over all and by source.

The squared error is compared with that of a constant, the mean of the same ratings: a scorer that does not beat it knows
nothing about a conversation.
"""

from __future__ import annotations

from statistics import fmean

from rich.table import Table
from rich.text import Text

from cai_cli.data.jsonl import Record
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.streams import plain_table
from cai_cli.training.ratings import ScoredRating

LEAST = 4
"""Fewest conversations for a correlation's interval."""


def _row(group: str, rows: list[ScoredRating]) -> Record:
    ratings, scores = [row.rating for row in rows], [row.score for row in rows]
    mean = fmean(ratings)
    found: Record = {
        "group": group,
        "conversations": len(rows),
        "squared_error": mean_interval([(row.score - row.rating) ** 2 for row in rows]),
        "of_the_mean": fmean((rating - mean) ** 2 for rating in ratings),
    }
    if len(rows) >= LEAST and len(set(ratings)) > 1 and len(set(scores)) > 1:
        from scipy.stats import pearsonr

        both = pearsonr(scores, ratings)
        low, high = both.confidence_interval(0.95)
        found["correlation"] = (float(both.statistic), float(low), float(high))
    return found


def report(rows: list[ScoredRating]) -> list[Record]:
    """A row for all conversations, and for each source if there are several. ValueError if there are none.

    A row holds `squared_error` as (mean, low, high), of a bootstrap; `of_the_mean`, the squared error of the mean rating; and
    Pearson's `correlation` of scores and ratings as (value, low, high), by Fisher's transformation, where it is defined.
    """
    sources = list(dict.fromkeys(row.source for row in rows))
    parts = [(source, [row for row in rows if row.source == source]) for source in sources]
    return [_row("all", rows), *(_row(*part) for part in parts if len(sources) > 1)]


def table(rows: list[Record]) -> Table:
    """The rows of `report` for a terminal."""
    columns = ("conversations", "squared error", "95% interval", "of the mean rating", "correlation", "95% interval")
    shown = plain_table("held-out conversations", *columns)
    for row in rows:
        error, both = row["squared_error"], row.get("correlation")
        cells = [f"{error[0]:.3f}", f"{error[1]:.3f} to {error[2]:.3f}", f"{row['of_the_mean']:.3f}"]
        cells += [f"{both[0]:+.3f}", f"{both[1]:+.3f} to {both[2]:+.3f}"] if both else ["", ""]
        shown.add_row(Text(row["group"]), str(row["conversations"]), *cells)
    return shown
