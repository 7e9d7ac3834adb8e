"""How well a preference model agrees with the labels of held-out pairs: over all pairs, by source, and by length.

A preference model may learn that the longer answer wins. So its accuracy is reported separately for pairs whose better answer
is longer, shorter, and of similar length, together with the share of pairs in which it prefers the longer answer.
"""

from __future__ import annotations

import math

import numpy as np
from rich.table import Table
from rich.text import Text

from cai_cli.data.jsonl import Record
from cai_cli.evaluation.calibration import expected_calibration_error, right
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.streams import plain_table
from cai_cli.training.pm import ScoredPair

SIMILAR = 10
"""Two answers are of similar length if their lengths differ by at most this many tokens."""
_LENGTHS = ("the better answer is longer", "of similar length", "the better answer is shorter")


def log_loss(pair: ScoredPair) -> float:
    """The cross-entropy of the model's probability sigma(margin) to a pair's soft label, in nats."""
    chosen, rejected = np.logaddexp(0, -pair.margin), np.logaddexp(0, pair.margin)  # -log sigma(margin), -log sigma(-margin)
    return float(pair.p_chosen * chosen + (1 - pair.p_chosen) * rejected)


def _p_right(pair: ScoredPair) -> float:
    """The model's probability of the answer that the label prefers."""
    return 1 / (1 + math.exp(-max(-500.0, pair.margin if pair.p_chosen > 0.5 else -pair.margin)))


def _length(pair: ScoredPair) -> str:
    """The kind, one of _LENGTHS, of a pair whose label is not even."""
    ahead = pair.longer if pair.p_chosen > 0.5 else -pair.longer
    return _LENGTHS[1] if abs(ahead) <= SIMILAR else _LENGTHS[0 if ahead > 0 else 2]


def _row(group: str, pairs: list[ScoredPair]) -> Record:
    decided = [pair for pair in pairs if pair.p_chosen != 0.5]  # with an even label, neither answer is right
    row: Record = {"group": group, "pairs": len(pairs), "even": len(pairs) - len(decided)}
    row["log_loss"] = mean_interval([log_loss(pair) for pair in pairs])
    if decided:
        p = np.array([_p_right(pair) for pair in decided])
        row |= {"accuracy": mean_interval(right(p).tolist()), "ece": expected_calibration_error(p)}
    apart = [pair for pair in pairs if abs(pair.longer) > SIMILAR]
    if apart:
        row["prefers_longer"] = sum((pair.margin > 0) == (pair.longer > 0) for pair in apart) / len(apart)
        row["labels_longer"] = sum(pair.p_chosen if pair.longer > 0 else 1 - pair.p_chosen for pair in apart) / len(apart)
    return row


def report(pairs: list[ScoredPair]) -> list[Record]:
    """A row for all pairs, for each source if there are several, and for each of _LENGTHS.

    A row holds `log_loss` as (mean, low, high); `accuracy`, the same, and `ece`, over the pairs whose label is not even; and,
    over the pairs not of similar length, the share in which the model (`prefers_longer`) and the labels (`labels_longer`)
    prefer the longer answer. ValueError if there are no pairs.
    """
    rows = [_row("all", pairs)]
    sources = list(dict.fromkeys(pair.source for pair in pairs))
    if len(sources) > 1:
        rows += [_row(source, [pair for pair in pairs if pair.source == source]) for source in sources]
    decided = [pair for pair in pairs if pair.p_chosen != 0.5]
    rows += [_row(kind, found) for kind in _LENGTHS if (found := [pair for pair in decided if _length(pair) == kind])]
    return rows


def table(rows: list[Record]) -> Table:
    """The rows of `report` for a terminal."""
    columns = ("pairs", "accuracy", "95% interval", "log loss", "ECE", "prefers longer", "labels do")
    shown = plain_table("held-out pairs", *columns)
    for row in rows:
        accuracy = row.get("accuracy")
        cells = [f"{accuracy[0]:.3f}", f"{accuracy[1]:.3f} to {accuracy[2]:.3f}"] if accuracy else ["", ""]
        cells += [f"{row['log_loss'][0]:.3f}", f"{row['ece']:.3f}" if "ece" in row else ""]
        cells += [f"{row[name]:.2f}" if name in row else "" for name in ("prefers_longer", "labels_longer")]
        shown.add_row(Text(row["group"]), str(row["pairs"]), *cells)
    return shown
