"""Compare models by what they wrote.

    cai eval scores base=base-scored.jsonl sft=sft-scored.jsonl rl=rl-scored.jsonl --by kind

`scores` reads what `cai score` wrote of each model's answers to the same prompts, and gives every
model's mean preference-model score, and its mean difference to the first model on the same
prompts, each with a 95% bootstrap interval.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from cai_cli import jsonl, records, streams
from cai_cli.commands.options import add_command
from cai_cli.errors import InputError
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.jsonl import Record
from cai_cli.outputs import source, write_file

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
ALL = "all"


@app.callback()
def group() -> None:
    """Compare models by what they wrote."""


def read_scores(path: str, by: str | None) -> dict[str, tuple[str, float]]:
    """{id: (group, score of the record's answer)}; the last revision's where there are rounds."""
    found = {}
    for record in records.read_with_ids(path):
        scores = record.get("scores")
        score = (scores.get("rounds") or [scores.get("response")])[-1] if isinstance(scores, dict) else None
        if not isinstance(score, float | int):
            raise InputError(f"{path}: record {record['id']} has no score of its response; run `cai score` on it first")
        found[record["id"]] = (str(record.get(by, "other")) if by else ALL, float(score))
    if not found:
        raise InputError(f"{path}: holds no records")
    return found


def compare(models: dict[str, dict[str, tuple[str, float]]], seed: int = 0) -> list[Record]:
    """A row a group and model: mean score and mean paired difference to the first model, with intervals."""
    first = next(iter(models.values()))
    shared = [identity for identity in first if all(identity in scores for scores in models.values())]
    if not shared:
        raise InputError("the files have no record id in common: score answers to the same prompts")
    if more := len({identity for scores in models.values() for identity in scores}) - len(shared):
        streams.warn(f"{more} records are not in every file, and are left out")
    rows = []
    for group in dict.fromkeys(first[identity][0] for identity in shared):
        ids = [identity for identity in shared if first[identity][0] == group]
        for name, scores in models.items():
            mean, low, high = mean_interval([scores[i][1] for i in ids], seed)
            row = {"group": group, "model": name, "records": len(ids), "mean": mean, "low": low, "high": high}
            if scores is not first:
                keys = ("difference", "difference_low", "difference_high")
                row |= dict(zip(keys, mean_interval([scores[i][1] - first[i][1] for i in ids], seed), strict=True))
            rows.append(row)
    return rows


def table(rows: list[Record], by: str | None) -> Table:
    """The rows for a terminal."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column(by or "")
    shown.add_column("model")
    for column in ("records", "mean score", "95% interval", f"less {rows[0]['model']}", "95% interval"):
        shown.add_column(column, justify="right")
    previous = None
    for row in rows:
        if previous not in (None, row["group"]):
            shown.add_row()
        name = row["group"] if row["group"] != previous else ""
        cells = [f"{row['mean']:+.2f}", f"{row['low']:+.2f} to {row['high']:+.2f}"]
        if "difference" in row:
            cells += [f"{row['difference']:+.2f}", f"{row['difference_low']:+.2f} to {row['difference_high']:+.2f}"]
        shown.add_row(Text(name if name != ALL else ""), Text(row["model"]), str(row["records"]), *cells)
        previous = row["group"]
    return shown


@add_command(
    app,
    "scores",
    "Mean preference-model score of several models' answers to the same prompts, with 95% intervals.",
    "cai eval scores base=base.jsonl sft=sft.jsonl rl=rl.jsonl --by kind",
)
def scores(
    files: Annotated[
        list[str], Argument(metavar="NAME=FILE...", help="Scored responses of each model; the first is compared against.")
    ],
    by: Annotated[
        str | None, Option("--by", help="A field of the records: a group for each of its values.", metavar="FIELD")
    ] = None,
    seed: Annotated[int, Option("--seed", help="Of the bootstrap.")] = 0,
    output: Annotated[str | None, Option("--output", "-o", help="Also write the rows as JSONL.")] = None,
) -> None:
    """Compare scores."""
    models = {}
    for entry in files:
        name, equals, path = entry.partition("=")
        if not equals or not name or not path:
            raise InputError(f"{entry}: write NAME=FILE, for instance base=base-scored.jsonl")
        models[name] = read_scores(path, by)
    rows = compare(models, seed)
    if output:
        inputs = [source(entry.partition("=")[2]) for entry in files]
        write_file(output, map(jsonl.encode, rows), {"step": "eval", "inputs": inputs})
    streams.print_table(table(rows, by))
