"""Compare models by the scores of what they wrote.

    cai eval scores base=base-scored.jsonl sft=sft-scored.jsonl rl=rl-scored.jsonl --by kind

`scores` reads what `cai score` wrote of each model's answers to the same prompts, and gives every
model's mean preference-model score, and its mean difference to the first model on the same
prompts, each with a 95% bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from cai_cli import jsonl, records, streams
from cai_cli.errors import InputError
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.jsonl import Record
from cai_cli.outputs import source, write_file

ALL = "all"


def named(files: list[str]) -> dict[str, str]:
    """NAME=FILE arguments as {name: path}. InputError for one that isn't."""
    found = {}
    for entry in files:
        name, equals, path = entry.partition("=")
        if not equals or not name or not path:
            raise InputError(f"{entry}: write NAME=FILE, for instance base=base.jsonl")
        if name in found:
            raise InputError(f"the name '{name}' is given twice; give each file its own")
        found[name] = path
    return found


def in_all(files: Sequence[Collection[str]]) -> list[str]:
    """The ids that stand in every file, in the first one's order; warns of the others. InputError where there are none."""
    shared = [identity for identity in files[0] if all(identity in ids for ids in files)]
    if not shared:
        raise InputError("the files have no record id in common: compare models on the same records")
    if more := len({identity for ids in files for identity in ids}) - len(shared):
        streams.warn(f"{more} records are not in every file, and are left out")
    return shared


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
    first, shared = next(iter(models.values())), in_all(list(models.values()))
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
    paths = named(files)
    rows = compare({name: read_scores(path, by) for name, path in paths.items()}, seed)
    if output:
        write_file(output, map(jsonl.encode, rows), {"step": "eval", "inputs": [source(path) for path in paths.values()]})
    streams.print_table(table(rows, by))
