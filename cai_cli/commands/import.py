"""Turn other people's data into prompt records, or into preferences.

    cai import hh-rlhf harmless-base.jsonl.gz -o prompts.jsonl
    cai import hh-rlhf helpful-base.jsonl.gz --preferences -o helpful.jsonl
    cai import csv prompts.csv --column question -o prompts.jsonl

The paper's helpfulness comparisons come from people: --preferences keeps hh-rlhf's pairs as such, `preferences` takes
TRL's files, with a `p_chosen` of 1, or less by --smoothing.

What came before is left out; an entry that is malformed is set aside and named by its line, with what is wrong with it.
hh-rlhf's prompt is everything up to the last assistant's turn. Files ending in .gz are read through gzip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer import Argument, Option

from cai_cli import importers, jsonl, outputs, streams
from cai_cli.commands.options import Limit, Output, Quiet, add_command, require_input
from cai_cli.errors import InputError
from cai_cli.importers import Item
from cai_cli.jsonl import Record
from cai_cli.records import Ids, digest

NAMED = 10
"""Entries set aside or odd for one reason that are named on the terminal; OUT.rejected.jsonl names all that are set aside."""

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
Column = Annotated[str, Option("--column", help="The column that holds the prompt.")]
Smoothing = Annotated[
    float, Option("--smoothing", min=0.0, max=0.5, help="Of preferences: `p_chosen` is 1 less this; 0.5 says nothing.")
]


@app.callback()
def group() -> None:
    """Turn other people's data into prompt records."""


@dataclass
class Files:
    """What every form has."""

    input: Annotated[str, Argument(help="A file (.gz too); - is standard input.")] = "-"
    output: Output = "-"
    limit: Limit = None
    kind: Annotated[str | None, Option("--kind", help="A `kind` to give every record, by which `cai eval` can group.")] = None
    quiet: Quiet = False


def take(
    form: str, prefix: str, items: Iterator[Item], files: Files, counts: dict[str, int], rejected: list[Record]
) -> Iterator[Record]:
    """The records of the items, each once, with ids; what is odd or set aside is named and counted."""
    ids, seen, named = Ids(), set[str](), Counter[str]()

    def name_it(key: str, what: str, item: Item, reason: str) -> None:
        counts[key] += 1
        named[reason] += 1
        if named[reason] <= NAMED:
            streams.warn(f"import: {what} {form} {item.number}: {reason}")
        if key == "set_aside":
            rejected.append({form: item.number, "error": reason})

    for item in items:
        if files.limit is not None and counts["records_out"] >= files.limit:
            return
        counts["records_in"] += 1
        if item.record is None:
            name_it("set_aside", "set aside", item, item.error)
            continue
        whole = [item.record[key] for key in ("prompt", "chosen", "rejected") if key in item.record]
        content = digest(whole if len(whole) > 1 else whole[0])  # of preferences many share a prompt
        if content in seen:
            counts["repeated"] += 1
            continue
        record = {"id": f"{prefix}-{content[:12]}", **item.record, **({"kind": files.kind} if files.kind else {})}
        record["id"] = record["id"] or f"{prefix}-{content[:12]}"
        if error := ids.error(record, item.number):
            name_it("set_aside", "set aside", item, error)
            continue
        seen.add(content)
        if item.note:
            name_it("odd", "kept", item, item.note)
        counts["records_out"] += 1
        yield record
    if counts["set_aside"] and not counts["records_out"]:
        raise InputError(f"{files.input}: nothing in it is of this form; is it another form of data?")


def run(form: str, prefix: str, items: Iterator[Item], files: Files, what: str = "prompts") -> None:
    """Write the records of the items, and say what came of them. `form` is what an entry is called, `what` a record."""
    counts = dict.fromkeys(("records_in", "records_out", "set_aside", "repeated", "odd"), 0)
    about: dict[str, Any] = {"step": "import", "inputs": [outputs.source(files.input)], "counts": counts}
    rejected: list[Record] = []
    outputs.write_file(files.output, map(jsonl.encode, take(form, prefix, items, files, counts, rejected)), about, rejected)
    kinds = (("repeated", f"repeated {what} left out"), ("set_aside", "set aside"), ("odd", "kept that are odd"))
    notes = [f"{counts[key]} {text}" for key, text in kinds if counts[key]]
    lead = f"cai import: {counts['records_out']} {what} of {counts['records_in']} {form}s"
    streams.say("; ".join([lead, *notes]), files.quiet)


@add_command(
    app,
    "hh-rlhf",
    "Anthropic's hh-rlhf: pairs of transcripts. The prompt is everything up to the last assistant's turn.",
    "cai import hh-rlhf harmless-base.jsonl.gz --kind red-team --limit 200 -o prompts.jsonl\n"
    "cai import hh-rlhf helpful-base.jsonl.gz --preferences -o helpful-preferences.jsonl",
)
def hh_rlhf(
    files: Files,
    preferences: Annotated[bool, Option("--preferences", help="Keep the pairs, as preferences by people.")] = False,
    smoothing: Smoothing = 0.0,
) -> None:
    """Import."""
    require_input(files.input)
    if preferences:
        run("line", "hh", importers.hh_rlhf_preferences(files.input, 1 - smoothing), files, "preferences")
    elif smoothing:
        raise InputError("--smoothing is of preferences; give --preferences as well")
    else:
        run("line", "hh", importers.hh_rlhf(files.input), files)


@add_command(
    app,
    "preferences",
    "Preferences of TRL's forms: `chosen` and `rejected` as strings beside a `prompt`, or as messages with one or without.",
    "cai import preferences comparisons.jsonl --smoothing 0.1 -o preferences.jsonl",
)
def preferences(files: Files, smoothing: Smoothing = 0.0) -> None:
    """Import."""
    require_input(files.input)
    run("line", "pr", importers.preferences(files.input, 1 - smoothing), files, "preferences")


@add_command(
    app,
    "red-team-attempts",
    "hh-rlhf's red-team attempts: transcripts with a rating and a task, which are kept.",
    "cai import red-team-attempts red_team_attempts.jsonl.gz --kind red-team -o prompts.jsonl",
)
def red_team_attempts(files: Files) -> None:
    """Import."""
    require_input(files.input)
    run("entry", "rt", importers.red_team_attempts(files.input), files)


@add_command(app, "csv", "A CSV file with a header.", "cai import csv prompts.csv --column question -o prompts.jsonl")
def csv(files: Files, column: Column = "prompt") -> None:
    """Import."""
    require_input(files.input)
    run("line", "p", importers.table(files.input, column, ","), files)


@add_command(app, "tsv", "Tab-separated values with a header.", "cai import tsv prompts.tsv --column question -o prompts.jsonl")
def tsv(files: Files, column: Column = "prompt") -> None:
    """Import."""
    require_input(files.input)
    run("line", "p", importers.table(files.input, column, "\t"), files)


@add_command(app, "text", "A prompt a line.", "cai import text prompts.txt -o prompts.jsonl")
def text(files: Files) -> None:
    """Import."""
    require_input(files.input)
    run("line", "p", importers.text(files.input), files)


@add_command(
    app,
    "dataset",
    "A dataset of the Hugging Face hub by its name, or a saved directory or a data file by its path.",
    "cai import dataset OWNER/NAME --split train --column prompt -o prompts.jsonl",
)
def dataset(
    files: Files,
    column: Column = "prompt",
    split: Annotated[str, Option("--split", help="Which split.")] = "train",
    subset: Annotated[str | None, Option("--subset", help="Which of its configurations, where it has several.")] = None,
) -> None:
    """Import."""
    if files.input == "-":
        raise InputError("give a dataset's name, directory or file")
    run("row", "p", importers.dataset(files.input, column, split, subset), files)
