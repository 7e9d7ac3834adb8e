"""Rows of a run as plain tables of texts, for the terminal, for HTML and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai_cli.data.jsonl import Record
from cai_cli.report.run import Step

CHANGED = 5
"""How many of the answers that gained most, and of those that lost most, a table shows."""
STEP_COLUMNS = ("output", "step", "in", "out", "skipped", "steps", "tokens", "seconds")


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def of_steps(steps: Sequence[Step]) -> Table:
    """One row per step with counts, and the sum of the tokens and seconds."""
    rows, tokens, seconds = [], 0, 0.0
    for step in steps:
        counts = step.counts
        if "records_out" not in counts and "steps" not in counts:
            continue
        tokens, seconds = tokens + step.tokens, seconds + counts.get("seconds", 0.0)
        numbers = [counts.get(name) for name in ("records_in", "records_out")]
        cells = [f"{n:,}" if n is not None else "" for n in numbers]
        cells += [str(counts.get("skipped") or ""), str(counts.get("steps", ""))]
        kind = step.kind if step.finished else f"{step.kind} (unfinished)"
        rows.append([step.name, kind, *cells, f"{step.tokens:,}" if step.finished else "", _seconds(counts)])
    rows.append(["all", "", "", "", "", "", f"{tokens:,}", f"{seconds:.1f}"])
    return Table("Steps", STEP_COLUMNS, rows)


def _seconds(counts: Record) -> str:
    return f"{counts['seconds']:.1f}" if "seconds" in counts else ""


def of_rows(title: str, rows: Sequence[Record]) -> Table:
    """Rows that `cai eval` wrote. A value with an interval is one cell."""
    flat = [_flat(row) for row in rows]
    columns = [name for name in dict.fromkeys(name for row in flat for name in row) if any(row.get(name) for row in flat)]
    return Table(title, [name.replace("_", " ") for name in columns], [[row.get(name, "") for name in columns] for row in flat])


def of_eval(title: str, rows: Sequence[Record]) -> list[Table]:
    """The tables of a file of `cai eval`, by the rows' `table`. Of the answers that changed only the CHANGED at either end."""
    found = []
    for name in dict.fromkeys(row.get("table") for row in rows):
        mine = [{key: row[key] for key in row if key not in ("table", "responses")} for row in rows if row.get("table") == name]
        if name == "changes" and len(mine) > 2 * CHANGED:
            mine = mine[:CHANGED] + mine[-CHANGED:]
        found.append(of_rows(f"{title}: {name}" if name else title, mine))
    return found


def _flat(row: Record) -> dict[str, str]:
    """A row's cells by their column. The bounds of an interval join its value."""
    found: dict[str, str] = {}
    for name, value in row.items():
        if name in ("low", "high") or name.endswith(("_low", "_high")):
            continue
        bounds = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
        if all(bound in row for bound in bounds):
            value = {"value": value, "low": row[bounds[0]], "high": row[bounds[1]]}
        if isinstance(value, list):  # points of a figure
            continue
        found[name] = cell(value)
    return found


def cell(value: Any) -> str:
    """A value as a text: 0.52 (0.48 to 0.56) with its interval, and a share per name for several."""
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        return f"{cell(value['value'])} ({cell(value['low'])} to {cell(value['high'])})"
    if isinstance(value, dict):
        return ", ".join(f"{name} {cell(one)}" for name, one in value.items())
    if isinstance(value, float):
        small = 0 < abs(value) < 0.01
        return f"{value:.2g}" if small else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{1 if abs(value) >= 20 else 2}f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def numeric(text: str) -> bool:
    """Whether a cell begins with a number, so that its column is aligned right."""
    return text[:1].isdigit() or (text[:1] in "+-" and text[1:2].isdigit())
