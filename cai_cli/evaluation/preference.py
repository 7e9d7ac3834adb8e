"""How well a preference model agrees with the labels of pairs that it didn't see: over all, by source, and by length.

A preference model may learn that the longer answer wins: its accuracy is so given apart for pairs whose better answer is the
longer, the shorter, and of like length, with the share of pairs in which it prefers the longer one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rich.table import Table
from rich.text import Text

from cai_cli.evaluation.calibration import expected_calibration_error, right
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.jsonl import Record

LIKE = 10
"""Tokens of difference up to which two answers count as of like length."""
_LENGTHS = ("the better answer is longer", "of like length", "the better answer is shorter")


@dataclass(frozen=True)
class Pair:
    """One labelled pair: its file, its label, the model's score of chosen less rejected, and so their tokens."""

    source: str
    p_chosen: float
    margin: float
    longer: int


def log_loss(pair: Pair) -> float:
    """Cross-entropy of a pair's label and the model's probability, which is sigma(margin), in nats."""
    sure = np.logaddexp(0, -pair.margin), np.logaddexp(0, pair.margin)
    return float(pair.p_chosen * sure[0] + (1 - pair.p_chosen) * sure[1])


def _of_right(pair: Pair) -> float:
    """The model's probability of the answer that the label holds better."""
    return 1 / (1 + math.exp(-max(-500.0, pair.margin if pair.p_chosen > 0.5 else -pair.margin)))


def _length(pair: Pair) -> str:
    ahead = pair.longer if pair.p_chosen > 0.5 else -pair.longer
    return _LENGTHS[1] if abs(ahead) <= LIKE else _LENGTHS[0 if ahead > 0 else 2]


def _row(group: str, pairs: list[Pair]) -> Record:
    decided = [pair for pair in pairs if pair.p_chosen != 0.5]  # of an even label no answer is the right one
    row: Record = {"group": group, "pairs": len(pairs), "even": len(pairs) - len(decided)}
    row["log_loss"] = mean_interval([log_loss(pair) for pair in pairs])
    if decided:
        p = np.array([_of_right(pair) for pair in decided])
        row |= {"accuracy": mean_interval(right(p).tolist()), "ece": expected_calibration_error(p)}
    apart = [pair for pair in pairs if abs(pair.longer) > LIKE]
    if apart:
        row["prefers_longer"] = sum((pair.margin > 0) == (pair.longer > 0) for pair in apart) / len(apart)
        row["labels_longer"] = sum(pair.p_chosen if pair.longer > 0 else 1 - pair.p_chosen for pair in apart) / len(apart)
    return row


def report(pairs: list[Pair]) -> list[Record]:
    """A row for all pairs, each source where there are several, and each kind of length difference.

    A row holds `log_loss` (mean, low, high), `accuracy` (the same) and `ece` over pairs whose label isn't even, and the share
    of pairs of unlike length in which the model, and the labels, prefer the longer answer. ValueError where there are none.
    """
    rows = [_row("all", pairs)]
    sources = list(dict.fromkeys(pair.source for pair in pairs))
    if len(sources) > 1:
        rows += [_row(source, [pair for pair in pairs if pair.source == source]) for source in sources]
    decided = [pair for pair in pairs if pair.p_chosen != 0.5]
    rows += [_row(kind, found) for kind in _LENGTHS if (found := [pair for pair in decided if _length(pair) == kind])]
    return rows


def table(rows: list[Record]) -> Table:
    """The rows for a terminal."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("held-out pairs")
    for column in ("pairs", "accuracy", "95% interval", "log loss", "ECE", "prefers longer", "labels do"):
        shown.add_column(column, justify="right")
    for row in rows:
        accuracy = row.get("accuracy")
        cells = [f"{accuracy[0]:.3f}", f"{accuracy[1]:.3f} to {accuracy[2]:.3f}"] if accuracy else ["", ""]
        cells += [f"{row['log_loss'][0]:.3f}", f"{row['ece']:.3f}" if "ece" in row else ""]
        cells += [f"{row[name]:.2f}" if name in row else "" for name in ("prefers_longer", "labels_longer")]
        shown.add_row(Text(row["group"]), str(row["pairs"]), *cells)
    return shown
