"""Compare models by the preference-model scores of their answers.

    cai eval scores base=base-scored.jsonl sft=sft-scored.jsonl rl=rl-scored.jsonl --by kind

Reads what `cai score` wrote for each model's answers to the same prompts. Gives each model's mean score and
its mean difference to the first model on the same prompts, with 95% bootstrap intervals.

Departures from the paper: the paper compares models by Elo ratings, from people's choices between their
answers (figures 2, 3 and 8).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from rich.console import Group
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import BootstrapSeed
from cai_cli.data import jsonl
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record
from cai_cli.data.records import current_score, shape_error
from cai_cli.errors import CaiError, InputError
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.pipeline import lineage
from cai_cli.pipeline.outputs import source, write_file

ALL = "all"


def named(files: list[str]) -> dict[str, str]:
    """NAME=FILE arguments as {name: path}; the name of FILE alone is that of the file. InputError for an empty or second name."""
    found = {}
    for entry in files:
        name, equals, path = entry.partition("=")
        if not equals or Path(entry).exists():
            name, path = Path(entry).stem, entry
        if not name or not path:
            raise InputError(f"{entry}: write NAME=FILE, for example base=base.jsonl")
        if name in found:
            raise InputError(f"the name '{name}' is given twice; give each file its own")
        found[name] = path
    return found


def in_all(files: Sequence[Collection[str]]) -> list[str]:
    """The ids that every file has, in the order of the first file. Warns about the others. InputError if there are none."""
    shared = [identity for identity in files[0] if all(identity in ids for ids in files)]
    if not shared:
        raise InputError("the files have no record id in common; compare models on the same records")
    if more := len({identity for ids in files for identity in ids}) - len(shared):
        streams.warn(f"{streams.plural(more, 'record')} left out: not in every file")
    return shared


def read_scores(path: str, by: str | None) -> dict[str, tuple[str, float]]:
    """{id: (group, score of the record's answer)}. InputError if a record has no score."""
    found = {}
    # a record without scores gets a message of its own
    for record in read_with_ids(path, check=lambda record: shape_error(record) if record.get("scores") else None):
        if (score := current_score(record)) is None:
            raise InputError(f"{path}: record {record['id']} has no score of its response; run `cai score` on it first")
        found[record["id"]] = (str(record.get(by, "other")) if by else ALL, score)
    if not found:
        raise InputError(f"{path}: has no records; give what `cai score` wrote")
    return found


def scored_by(path: str) -> Record | None:
    """The model (`name`, `sha256`, `dtype`, `target`) of a file's scores. None if no manifest of it or of its inputs names it."""
    try:
        steps = (made for _, made in lineage.history(Path(path)) if made.get("step") == "score")
        return next(steps, {}).get("model")
    except CaiError:
        return None


def has_ratings(path: str) -> bool:
    """Whether a file's scores predict ratings (`cai train-pm --target score`): a higher one need not be better."""
    return (scored_by(path) or {}).get("target") == "score"


def scorer_line(scorers: Mapping[str, Record | None]) -> str:
    """A sentence that names the files' preference model and dtype. Warns if they have different ones."""
    texts = {
        name: f"{found['name']} (sha256 {found['sha256'][:8]}), {found.get('dtype', 'dtype unknown')}"
        if found
        else "an unknown preference model (no manifest of `cai score` beside the file)"
        for name, found in scorers.items()
    }
    kinds = {(found["sha256"], found.get("dtype")) if found else None for found in scorers.values()}
    if len(kinds) == 1:
        return f"scored by {next(iter(texts.values()))}"
    listed = "; ".join(f"{name} by {text}" for name, text in texts.items())
    streams.warn(
        "not all files were scored by the same preference model in the same dtype, so their scores may not be comparable"
    )
    return f"scored: {listed}"


def compare(models: Mapping[str, Mapping[str, tuple[str, float]]], seed: int = 0) -> list[Record]:
    """One row per group and model: the mean score and the mean paired difference to the first model, with intervals."""
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
    """The rows as a table for the terminal."""
    columns = ("records", "mean score", "95% interval", f"minus {rows[0]['model']}", "95% interval")
    shown = streams.plain_table(by or "", "model", *columns, left=2)
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


@command(
    "Compare the mean preference-model scores of several models' answers to the same prompts, with 95% intervals.",
    "cai eval scores base=base-scored.jsonl sft=sft-scored.jsonl rl=rl-scored.jsonl --by kind",
)
def app(
    files: Annotated[
        list[str], Argument(metavar="NAME=FILE...", help="Each model's scored answers; the others are compared to the first.")
    ],
    by: Annotated[str | None, Option("--by", help="Group the records by the values of this field.", metavar="FIELD")] = None,
    seed: BootstrapSeed = 0,
    output: Annotated[str | None, Option("--output", "-o", help="Also write the rows as JSONL.")] = None,
) -> None:
    """Compare models by scores."""
    paths = named(files)
    scorers = {name: scored_by(path) for name, path in paths.items()}
    rows = compare({name: read_scores(path, by) for name, path in paths.items()}, seed)
    if output:
        about = {"step": "eval", "inputs": [source(path) for path in paths.values()], "scored_by": scorers}
        write_file(output, map(jsonl.encode, rows), about)
    streams.print_table(Group(table(rows, by), Text(f"\n{scorer_line(scorers)}")))
