"""Convert other data into prompt records or preferences.

    cai import hh-rlhf harmless-base.jsonl.gz -o prompts.jsonl
    cai import hh-rlhf helpful-base.jsonl.gz --preferences -o helpful.jsonl
    cai import csv prompts.csv --column question -o prompts.jsonl
    cai import bench harmbench harmbench_behaviors_text_all.csv -o harmbench.jsonl

hh-rlhf's prompt is everything before the last assistant's turn. `hh-rlhf --preferences` keeps the pairs as
preferences; `preferences` takes TRL's files. Their `p_chosen` is 1, or 1 minus --label-smoothing. `bench` reads
published benchmarks, `messages` conversations in OpenAI's or ShareGPT's form. These three read JSONL, one JSON
array or a .parquet file; `bench` also reads CSV.

Every column is kept, except values of null. A column with the name of one of our fields (`response`, `meta`, ...) is
kept as `original_NAME`. An entry that occurred before is left out. A malformed entry is skipped and named by its line,
with what is wrong. Files that end in .gz are read through gzip.

Departures from the paper: the data are yours to bring. The paper uses red-team prompts (section 3.2) and helpfulness
comparisons (section 4.2) by people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import add_command, group_app, require_input
from cai_cli.commands._flags import Limit, Output, Quiet
from cai_cli.data import benchmarks, importers, jsonl
from cai_cli.data.ids import Ids
from cai_cli.data.importers import Item
from cai_cli.data.jsonl import Record
from cai_cli.data.records import digest
from cai_cli.errors import InputError
from cai_cli.pipeline import outputs
from cai_cli.pipeline.manifest import Manifest

NAMED = 10
"""Entries named on the terminal for each reason, skipped or odd. OUT.skipped.jsonl names all that are skipped."""

_CONTENT = ("prompt", "turns", "chosen", "rejected", "response")
"""The fields in which a repeated entry equals an earlier one."""

app = group_app("Convert other data into records: prompts, or preferences.")
Column = Annotated[str, Option("--column", help="The column that holds the prompt.")]
LabelSmoothing = Annotated[
    float, Option("--label-smoothing", min=0.0, max=0.5, help="`p_chosen` is 1 minus this; with 0.5 the labels carry no signal.")
]


@dataclass
class ImportFlags:
    """The flags of every subcommand."""

    input: Annotated[str, Argument(help="A file (.gz too); - is standard input.")] = "-"
    output: Output = "-"
    limit: Limit = None
    kind: Annotated[
        str | None, Option("--kind", help="The `kind` of every record; `cai eval scores --by kind` groups by it.")
    ] = None
    quiet: Quiet = False


def take(
    form: str, prefix: str, items: Iterator[Item], files: ImportFlags, counts: dict[str, int], skipped: list[Record]
) -> Iterator[Record]:
    """The records of the items, each once, with ids. Odd and skipped entries are named and counted (`counts`).

    `form` is what an entry is called; `prefix` begins the ids of records without one. Skipped entries go into `skipped`.
    """
    ids, seen, named = Ids(), set[str](), Counter[str]()

    def report(key: str, what: str, item: Item, reason: str) -> None:
        counts[key] += 1
        named[reason] += 1
        if named[reason] <= NAMED:
            streams.warn(f"import: {what} {form} {item.number}: {reason}")
        if key == "skipped":
            skipped.append({form: item.number, "error": reason})

    for item in items:
        if files.limit is not None and counts["records_out"] >= files.limit:
            return
        counts["records_in"] += 1
        if item.record is None:
            report("skipped", "skipped", item, item.error)
            continue
        whole = [item.record[key] for key in _CONTENT if key in item.record]
        content = digest(whole if len(whole) > 1 else whole[0])  # many preferences share a prompt
        if content in seen:
            counts["repeated"] += 1
            continue
        record = {"id": f"{prefix}-{content[:12]}", **item.record, **({"kind": files.kind} if files.kind else {})}
        record["id"] = record["id"] or f"{prefix}-{content[:12]}"
        if error := ids.error(record, item.number):
            report("skipped", "skipped", item, error)
            continue
        seen.add(content)
        if item.note:
            report("odd", "kept", item, item.note)
        counts["records_out"] += 1
        yield record
    if counts["skipped"] and not counts["records_out"]:
        raise InputError(
            f"{files.input}: no entry has the form that this subcommand reads; use the subcommand for the file's form"
        )


def run(form: str, prefix: str, items: Iterator[Item], files: ImportFlags, what: str = "prompt") -> None:
    """Write the records of the items, and print the counts. `form` is what an entry is called, `what` what a record is."""
    counts = dict.fromkeys(("records_in", "records_out", "skipped", "repeated", "odd"), 0)
    about: Manifest = {"step": "import", "inputs": [outputs.source(files.input)], "counts": counts}
    skipped: list[Record] = []
    outputs.write_file(
        files.output, map(jsonl.encode, take(form, prefix, items, files, counts, skipped)), about, map(jsonl.encode, skipped)
    )
    notes = [f"{streams.plural(counts['repeated'], f'repeated {what}')} left out"] if counts["repeated"] else []
    notes += [f"{counts[key]} {text}" for key, text in (("skipped", "skipped"), ("odd", "odd but kept")) if counts[key]]
    summary = f"cai import: {streams.plural(counts['records_out'], what)} of {streams.plural(counts['records_in'], form)}"
    streams.say("; ".join([summary, *notes]), files.quiet)


@add_command(
    app,
    "hh-rlhf",
    "Import Anthropic's hh-rlhf: pairs of transcripts. The prompt is everything before the last assistant's turn.",
    "cai import hh-rlhf harmless-base.jsonl.gz --kind red-team --limit 200 -o prompts.jsonl\n"
    "cai import hh-rlhf helpful-base.jsonl.gz --preferences -o helpful-preferences.jsonl",
)
def hh_rlhf(
    files: ImportFlags,
    preferences: Annotated[bool, Option("--preferences", help="Keep the pairs, as preferences of people.")] = False,
    label_smoothing: LabelSmoothing = 0.0,
) -> None:
    """Import hh-rlhf."""
    require_input(files.input)
    if preferences:
        run("line", "hh", importers.hh_rlhf_preferences(files.input, 1 - label_smoothing), files, "preference")
    elif label_smoothing:
        raise InputError("--label-smoothing applies to preferences; give --preferences too")
    else:
        run("line", "hh", importers.hh_rlhf(files.input), files)


@add_command(
    app,
    "preferences",
    "Import preferences in TRL's forms: `chosen` and `rejected` as strings with a `prompt`, or as messages with or without one.",
    "cai import preferences comparisons.jsonl --label-smoothing 0.1 -o preferences.jsonl",
)
def preferences(files: ImportFlags, label_smoothing: LabelSmoothing = 0.0) -> None:
    """Import preferences."""
    require_input(files.input)
    run("entry", "pr", importers.preferences(files.input, 1 - label_smoothing), files, "preference")


@add_command(
    app,
    "messages",
    "Import conversations: `messages` (OpenAI's and TRL's form) or `conversations` (ShareGPT's).",
    "cai import messages chats.jsonl -o prompts.jsonl\ncai import messages chats.jsonl --answers -o helpful.jsonl",
)
def messages(
    files: ImportFlags,
    answers: Annotated[
        bool, Option("--answers", help="Keep the last answer of each conversation as `response`, for `cai train-sft`.")
    ] = False,
) -> None:
    """Import conversations."""
    require_input(files.input)
    run("entry", "ms", importers.messages(files.input, answers), files, "response" if answers else "prompt")


class Bench(str, Enum):
    """The names of the benchmarks."""

    xstest = "xstest"
    harmbench = "harmbench"
    strongreject = "strongreject"
    jailbreakbench = "jailbreakbench"
    or_bench = "or-bench"
    mt_bench = "mt-bench"
    alpaca_eval = "alpaca-eval"
    rewardbench = "rewardbench"
    hhh = "hhh"


@add_command(
    app,
    "bench",
    "Import a published benchmark from its authors' file (CSV, JSON, JSONL or parquet).",
    "cai import bench xstest xstest_prompts.csv -o xstest.jsonl\ncai import bench mt-bench question.jsonl -o mt-bench.jsonl",
)
def bench(name: Annotated[Bench, Argument(help="The benchmark.", metavar="NAME")], files: ImportFlags) -> None:
    """Import a benchmark."""
    require_input(files.input)
    what = "preference" if name in (Bench.rewardbench, Bench.hhh) else "prompt"
    run("entry", name.value, benchmarks.read(name.value, files.input), files, what)


@add_command(
    app,
    "red-team-attempts",
    "Import hh-rlhf's red-team attempts: transcripts. Their rating and task are kept.",
    "cai import red-team-attempts red_team_attempts.jsonl.gz --kind red-team -o prompts.jsonl\n"
    "cai import red-team-attempts red_team_attempts.jsonl.gz --answers -o rated.jsonl",
)
def red_team_attempts(
    files: ImportFlags,
    answers: Annotated[
        bool, Option("--answers", help="Keep each transcript's last answer as `response`, for `cai train-pm --target score`.")
    ] = False,
) -> None:
    """Import red-team attempts."""
    require_input(files.input)
    items = importers.red_team_attempts(files.input, answers)
    run("entry", "rt", items, files, "response" if answers else "prompt")


@add_command(app, "csv", "Import a CSV file with a header.", "cai import csv prompts.csv --column question -o prompts.jsonl")
def csv(files: ImportFlags, column: Column = "prompt") -> None:
    """Import CSV."""
    require_input(files.input)
    run("line", "p", importers.table(files.input, column, ","), files)


@add_command(
    app, "tsv", "Import tab-separated values with a header.", "cai import tsv prompts.tsv --column question -o prompts.jsonl"
)
def tsv(files: ImportFlags, column: Column = "prompt") -> None:
    """Import TSV."""
    require_input(files.input)
    run("line", "p", importers.table(files.input, column, "\t"), files)


@add_command(app, "text", "Import a text file with one prompt per line.", "cai import text prompts.txt -o prompts.jsonl")
def text(files: ImportFlags) -> None:
    """Import text."""
    require_input(files.input)
    run("line", "p", importers.text(files.input), files)


@add_command(
    app,
    "dataset",
    "Import a dataset: a name on the Hugging Face hub, or the path of a saved dataset or a data file.",
    "cai import dataset OWNER/NAME --split train --column prompt -o prompts.jsonl",
)
def dataset(
    files: ImportFlags,
    column: Column = "prompt",
    split: Annotated[str, Option("--split", help="The split to import.")] = "train",
    subset: Annotated[str | None, Option("--subset", help="The configuration, if the dataset has several.")] = None,
) -> None:
    """Import a dataset."""
    if files.input == "-":
        raise InputError("no dataset: give its name on the hub, or the path of a directory or file")
    run("row", "p", importers.dataset(files.input, column, split, subset), files)
