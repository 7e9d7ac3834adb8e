"""Compare several judges on the same pairs, from what `cai eval choice` wrote for each.

    cai eval judges direct=judged.jsonl reasoned=judged-cot.jsonl --plot calibration.png

The plot is like the paper's figure 9: how often a judge is right, against its confidence. Departures from the
paper: none in the plot; the table adds 95% bootstrap intervals, and how often a judge prefers the longer answer, beside how
often the longer answer is the right one: a judge that goes by length shows there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import BootstrapSeed
from cai_cli.commands.eval_scores import in_all, named
from cai_cli.data import jsonl
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError
from cai_cli.evaluation import figures
from cai_cli.pipeline.outputs import source, write_file

COLUMNS = {"accuracy": "accuracy", "log_loss": "log loss", "brier": "Brier", "ece": "ECE", "longer": "prefers longer"}
Verdict = tuple[float, int]
"""The probability that a judge gave to the right answer of a pair, and how many words longer that answer is than the other."""


def verdict(judged: Record) -> Verdict:
    """That of a record's `judged`. Files of older versions do not know the lengths: 0 then."""
    longer = judged.get("longer", 0)
    return float(judged["p_correct"]), longer if isinstance(longer, int) else 0


def read_judged(path: str) -> dict[str, Verdict]:
    """{id: the verdict on the pair}. InputError if a record lacks it."""
    found = {}
    for record in read_with_ids(path):
        judged = record.get("judged")
        p = judged.get("p_correct") if isinstance(judged, dict) else None
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
            raise InputError(f"{path}: record {record['id']} has no 'judged.p_correct'; `cai eval choice` writes it")
        found[record["id"]] = verdict(record["judged"])
    if not found:
        raise InputError(f"{path}: has no records; give what `cai eval choice` wrote")
    return found


def row(name: str, verdicts: list[Verdict], seed: int = 0) -> Record:
    """A judge's measures with their 95% intervals, and the points of its reliability curve.

    `longer`: of the pairs of unequal length, the share in which it prefers the longer answer; `longer_is_right`: in which that is
    the right one. Both are missing without such pairs.
    """
    import numpy as np

    from cai_cli.evaluation import calibration
    from cai_cli.evaluation.intervals import mean_interval

    values = [p for p, _ in verdicts]
    found = calibration.measures(values, seed)
    unequal = [(p, longer > 0) for p, longer in verdicts if longer]
    if unequal:
        found["longer"] = mean_interval([0.5 if p == 0.5 else float((p > 0.5) == longer) for p, longer in unequal], seed)
    ends = {key: dict(zip(("value", "low", "high"), three, strict=True)) for key, three in found.items()}
    right = {"longer_is_right": sum(longer for _, longer in unequal) / len(unequal)} if unequal else {}
    return {"judge": name, "pairs": len(values), **ends, **right, "reliability": calibration.reliability(np.asarray(values))}


def table(rows: list[Record]) -> Table:
    """The rows as a table for the terminal."""
    measures = [column for title in COLUMNS.values() for column in (title, "95% interval")]
    shown = streams.plain_table("judge", "pairs", *measures, "longer is right")
    for entry in rows:
        found = [entry.get(key) for key in COLUMNS]
        cells = [[f"{m['value']:.3f}", f"{m['low']:.3f} to {m['high']:.3f}"] if m else ["", ""] for m in found]
        right = f"{entry['longer_is_right']:.3f}" if "longer_is_right" in entry else ""
        shown.add_row(Text(entry["judge"]), str(entry["pairs"]), *(cell for both in cells for cell in both), right)
    return shown


@command(
    "Compare several judges on the same pairs in one table, and plot their calibration.",
    "cai eval judges direct=judged.jsonl reasoned=judged-cot.jsonl --plot calibration.png",
)
def app(
    files: Annotated[list[str], Argument(metavar="NAME=FILE...", help="What `cai eval choice` wrote for each judge.")],
    plot_to: Annotated[
        str | None, Option("--plot", metavar="FILE.png", help="Draw the judges' reliability curves (also .svg, .pdf).")
    ] = None,
    seed: BootstrapSeed = 0,
    output: Annotated[str | None, Option("--output", "-o", help="Also write the rows as JSONL.")] = None,
) -> None:
    """Compare judges."""
    paths = named(files)
    found = {name: read_judged(path) for name, path in paths.items()}
    shared = in_all(list(found.values()))
    rows = [row(name, [values[i] for i in shared], seed) for name, values in found.items()]
    if output:
        write_file(output, map(jsonl.encode, rows), {"step": "eval", "inputs": [source(path) for path in paths.values()]})
    if plot_to:
        figures.draw(figures.calibration, rows, Path(plot_to))
    streams.print_table(table(rows))
