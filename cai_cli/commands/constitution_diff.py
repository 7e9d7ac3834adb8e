"""What a change of the constitution changes: the answers of a run revised, and its pairs labelled, under two constitutions.

    cai constitution diff default mine.yaml --run runs/demo -m MODEL -o diff.jsonl

Reads RUN/responses.jsonl and RUN/pairs.jsonl, as `make demo` names them. Each answer gets a round of critique and revision
under both, and each pair a label, with the draws of `cai revise` and `cai label`. If both constitutions draw the same principle
for a record, its result is computed once. `-o` writes each record with both results, `a` and `b`.

Not in the paper, which has one constitution per model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

from rich.console import Group
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, Model, Sampling
from cai_cli.commands._judging import Judging
from cai_cli.commands._session import Session
from cai_cli.commands.eval_choice import ChoiceIO
from cai_cli.data import jsonl
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Line, Record
from cai_cli.data.records import critique_input_error, pair_error
from cai_cli.engines.base import Steps
from cai_cli.errors import InputError, Skipped
from cai_cli.evaluation import changes
from cai_cli.method import constitution
from cai_cli.method.constitution import Constitution
from cai_cli.method.judge import Judge
from cai_cli.method.rounds import Rounds
from cai_cli.pipeline import manifest

FILES = {"responses.jsonl": critique_input_error, "pairs.jsonl": pair_error}
"""What is read of a run, and how it is checked."""
SHOWN, WIDTH = 2, 300
"""How many records of each kind are shown, and how many letters of a text."""


@dataclass
class DiffIO(ChoiceIO):
    """The files of a run, and an output only if -o asks for it."""

    input: Annotated[str, Option("--run", metavar="RUN", help="A folder with responses.jsonl or pairs.jsonl, or both.")] = ""


class Side:
    """One of the two constitutions, with the programs that use it."""

    def __init__(self, session: Session, found: Constitution, judging: Judging, sampling: Sampling) -> None:
        self.constitution = found
        self.rounds = Rounds(session, found, judging.few_shot, 0, "critique", "revision")
        self.judge = Judge(session, found, judging.settings(found, sampling))

    def asks(self, record: Record) -> object:
        """Everything of the constitution that decides a record's result."""
        if "responses" in record:
            return self.judge.principles(record, (0, 1)), self.judge.shown(record["id"])
        return self.rounds.draw(record), self.rounds.examples

    def result(self, record: Record) -> Steps[Record]:
        """The label of a pair, or the round of an answer. Skipped if the judge's reasoning was cut."""
        if "responses" in record:
            [label], _ = yield from self.judge.judge(record, [(0, 1)])
            if label is None:
                raise Skipped("the judge's reasoning was cut by --max-tokens, so there is no label; raise it, or give --keep-cut")
            return dict(label)
        opened = yield from self.rounds.critique(record)
        closed = yield from self.rounds.revise(opened)
        return dict(closed["rounds"][-1])


class Collected:
    """Collects the records. See `observers.Observer`."""

    def __init__(self) -> None:
        self.found: list[Record] = []

    def count(self, record: Record) -> None:
        """Collect a record."""
        self.found.append(record)

    def summary(self) -> Record:
        """The rows of both tables."""
        return {"labels": list(changes.labels(self.found)), "revisions": list(changes.revisions(self.found))}


@command(
    "Compare two constitutions on a run: its answers revised and its pairs labelled under both, by principle, with examples.",
    "cai constitution diff default mine.yaml --run runs/demo -m models/SmolLM2-135M-Instruct -o diff.jsonl",
)
def app(
    files: DiffIO,
    model: Model,
    sampling: Sampling,
    prompting: AnswerPrompting,
    judging: Judging,
    first: Annotated[str, Argument(metavar="A", help="A packaged constitution's name, or a YAML or JSON file.")],
    second: Annotated[str, Argument(metavar="B", help="The other one.")],
) -> None:
    """Compare two constitutions on a run."""
    paths = [path for name in FILES if (path := Path(files.input or ".") / name).exists()]
    if not files.input or not paths:
        raise InputError(
            f"--run {files.input}: give a folder with responses.jsonl (`cai sample`) or pairs.jsonl (`cai sample -n 2`)"
        )
    found = [constitution.load(name) for name in (first, second)]
    different = changes.changed(*found)
    if not different and found[0].examples == found[1].examples:
        raise InputError(f"{first} and {second}: the same principles and examples, so nothing can change")
    records = [r for path in paths for r in read_with_ids(str(path), files.limit, FILES[path.name])]
    out = streams.claim_stdout() if files.output != "-" and files.dry_run is None else None
    files.input, files.output, files.limit = str(paths[0]), files.output or os.devnull, None
    session = Session(files, model, sampling, prompting, exact=True)
    sides = [Side(session, each, judging, sampling) for each in found]

    def lines() -> Iterator[Line]:
        for number, record in enumerate(records, 1):
            # an answer and a pair of the same prompt have the same id
            whole = {**record, "id": f"{record['id']}/pair"} if "responses" in record and len(paths) > 1 else record
            yield Line(number, jsonl.encode(whole), whole)

    def program(record: Record) -> Steps[list[Record]]:
        asked = {**record, "id": record["id"].removesuffix("/pair")}
        a = yield from sides[0].result(asked)
        same = sides[0].asks(asked) == sides[1].asks(asked)
        return [{**record, "a": a, "b": a if same else (yield from sides[1].result(asked))}]

    seen = Collected()
    session.run(
        "constitution diff", lambda record: None, program, lines=lines, observer=seen,
        compared={path.name: manifest.hash_file(str(path)) for path in paths}, constitutions=[each.sha256 for each in found],
        **sides[0].judge.settings.options(),
    )  # fmt: skip
    if seen.found and files.dry_run is None:
        _report(seen, different, out)
    if out:
        out.close()


def _report(seen: Collected, different: dict[str, str], out: IO[bytes] | None) -> None:
    """Print what is different in the constitutions, the tables, and the records that changed most."""
    for identity, what in different.items():
        streams.say(f"{identity}: {what}")
    columns = {"labels": {"moved": "p moves by", "other_wins": "other wins"}}
    columns["revisions"] = {"another": "another text", "words": "words", "refusals": "refusals"}
    shown = [table(kind, rows, columns[kind], different) for kind, rows in seen.summary().items() if rows]
    shown += [example(record) for record in changes.examples(seen.found, SHOWN)]
    streams.print_table(Group(*(part for each in shown for part in (each, ""))), out, stderr=out is None)


def table(kind: str, rows: list[Record], columns: dict[str, str], different: dict[str, str]) -> Table:
    """The rows as a table for the terminal; a * marks principles that are not the same in both constitutions.

    Principles whose records all have the same results share one row.
    """
    heads = [cell for title in columns.values() for cell in (title, "95% interval")]
    made = streams.plain_table("principle of the first", kind, *heads)
    still = [row for row in rows[:-1] if row["principle"] not in different and not any(_moves(row[key]) for key in columns)]
    if still:
        made.add_row(f"{len(still)} unchanged", str(sum(row["records"] for row in still)))
    for row in rows:
        if row in still:
            continue
        values = [{**row[key], "s": "+" if key in ("words", "refusals") else ""} for key in columns]
        cells = [["{value:{s}.2f}".format(**v), "{low:{s}.2f} to {high:{s}.2f}".format(**v)] for v in values]
        name = row["principle"] + ("*" if row["principle"] in different else "")
        made.add_row(Text(name), str(row["records"]), *(cell for each in cells for cell in each))
    return made


def _moves(found: Record) -> bool:
    return any(found.values())  # a mean of zero may still have an interval


def example(record: Record) -> Table:
    """A record under both constitutions."""
    made = streams.plain_table(record["id"], "")
    made.columns[1].justify = "left"
    made.columns[1].no_wrap = False

    def add(name: str, text: str) -> None:
        made.add_row(name, Text(" ".join(text.split())[:WIDTH]))

    prompt = record["prompt"]
    add("prompt", prompt if isinstance(prompt, str) else prompt[-1]["content"])
    if "responses" in record:
        add("first answer", record["responses"][0])
        add("second answer", record["responses"][1])
        for side in ("a", "b"):
            label = record[side]
            add(f"first is better, {side}", f"{label['p_first']:.2f} by {', '.join(label['principles'])}")
    else:
        add("answer", record["response"])
        for side in ("a", "b"):
            add(f"revision, {side}", f"{record[side]['revision']} (by {record[side]['principle']})")
    return made
