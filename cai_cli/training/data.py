"""Training files: read, check and weight them, and hold some of their records out.

Every trainer reads several files, each `FILE` or `FILE=WEIGHT`. Rows are checked line by line before any model is
loaded; --skip-bad skips bad lines. Rows that are valid but cannot be trained on (too long, empty) are skipped with a reason;
nothing is truncated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from cai_cli import streams
from cai_cli.data import jsonl
from cai_cli.data.ids import Ids
from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError, Skipped
from cai_cli.pipeline import manifest
from cai_cli.pipeline.inputs import SKIP_BAD, line_error, skipped_entry
from cai_cli.pipeline.seeds import draw, draw_uniform
from cai_cli.training.settings import InputEntry, Settings

NAMED = 10
"""At most this many skipped rows are named on standard error; the rest are only counted."""
T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True)
class WeightedFile:
    """One training file, FILE or FILE=WEIGHT."""

    path: str
    weight: float = 1.0
    """How many times its rows are taken; for a fraction, a seeded subset of them."""


@dataclass(frozen=True)
class Row:
    """A checked input record and its place in a file."""

    path: str
    line: int
    """Its line number, from 1."""
    record: Record

    @property
    def origin(self) -> str:
        """The id of the record that it was made from: all preferences of one record of answers have the same."""
        return str(self.record.get("source_id") or self.record["id"])


@dataclass
class Data(Generic[T]):
    """What a trainer trains on and evaluates on."""

    examples: list[tuple[Row, T]]
    """Each example with its row. A row may give several examples, and a weight above 1 repeats them."""
    skipped: list[Record]
    """One entry per skipped row: its file, line, reason and record."""
    inputs: list[InputEntry]
    """One entry per training file."""
    held_out: list[tuple[Row, T]] = field(default_factory=list)
    """The examples of --eval or --eval-fraction."""
    eval_inputs: list[InputEntry] = field(default_factory=list)
    """One entry per file of --eval."""

    @property
    def training(self) -> list[T]:
        """The examples, without their rows."""
        return [example for _, example in self.examples]

    @property
    def testing(self) -> list[T]:
        """The held-out examples, without their rows."""
        return [example for _, example in self.held_out]

    def skip(self, row: Row, reason: str) -> None:
        """Record a skipped row with its reason; the first NAMED are also named in warnings."""
        entry = {"file": row.path, "line": row.line, "error": reason, "record": row.record}
        _add_skipped(self.skipped, entry, f"{row.record['id']} ({row.path}:{row.line})")

    def origins(self) -> list[str]:
        """The ids of the records trained on, each once."""
        return list(dict.fromkeys(row.origin for row, _ in self.examples))

    def hold_out(self, fraction: float) -> None:
        """Move a share of the examples to `held_out`, by a hash of their origin. InputError if none is left to train on."""
        held = [entry for entry in self.examples if draw_uniform("eval", entry[0].origin) < fraction]
        self.examples = [entry for entry in self.examples if draw_uniform("eval", entry[0].origin) >= fraction]
        if not self.examples:
            raise InputError(f"--eval-fraction {fraction} leaves no row to train on")
        if fraction and not held:
            streams.warn(f"--eval-fraction {fraction} of so few rows holds out none, so there is no eval_loss")
        # a weight above 1 repeats a file's examples, and an evaluation needs each only once
        self.held_out += {id(entry[1]): entry for entry in held}.values()


def _add_skipped(skipped: list[Record], entry: Record, name: str) -> None:
    skipped.append(entry)
    if len(skipped) <= NAMED:
        streams.warn(f"skipped {name}: {entry['error']}")


def split_weight(entry: str) -> tuple[str, float | None]:
    """(name, weight) of NAME or NAME=WEIGHT. The weight is None if there is none, or if the entry is the name of a file."""
    name, equals, weight = entry.rpartition("=")
    if equals and not Path(entry).exists():
        with suppress(ValueError):
            return name, float(weight)
    return entry, None


def weighted_files(entries: list[str]) -> list[WeightedFile]:
    """The files of a command line. InputError for a bad weight, standard input, or a file that does not exist."""
    found = []
    for entry in entries:
        path, weight = split_weight(entry)
        if weight is not None and not 0 < weight < 1e6:
            raise InputError(f"{entry}: the number after = must be positive, and below a million")
        found.append(WeightedFile(path, 1.0 if weight is None else weight))
    for file in found:
        if file.path == "-":
            raise InputError("this command reads its files more than once, so it cannot read standard input; give a file")
        jsonl.open_input(file.path).close()
    return found


def read(
    file: WeightedFile, check: Callable[[Record], str | None], limit: int | None, skipped: list[Record] | None = None
) -> list[Row]:
    """The rows of one file, with ids. Bad lines are added to `skipped`; without it, the first one is an InputError."""
    rows, ids = [], Ids()
    for line in islice(jsonl.read_lines(file.path), limit):
        error = line_error(line, check, ids)
        if error is None:
            assert line.record is not None
            rows.append(Row(file.path, line.number, line.record))
        elif skipped is None:
            raise jsonl.bad_line(file.path, line.number, error, SKIP_BAD)
        else:
            _add_skipped(skipped, {"file": file.path, **skipped_entry(line, error)}, f"{file.path}:{line.number}")
    return rows


def weigh(rows: list[T], weight: float, seed: int, name: Callable[[T], str]) -> list[T]:
    """`rows` taken `weight` times: whole copies, plus for the remaining fraction a subset drawn from (seed, name).

    The paper mixes revisions with helpful samples (section 3.2), and prompts of two kinds in RL (section 4.2).
    """
    whole, part = divmod(weight, 1)
    ranked = sorted(range(len(rows)), key=lambda i: draw(seed, "weight", name(rows[i]), i))
    once_more = sorted(ranked[: round(part * len(rows))])
    return rows * int(whole) + [rows[i] for i in once_more]


@dataclass
class Checked:
    """The checked rows of every file."""

    training: list[tuple[WeightedFile, list[Row]]]
    held_out: list[tuple[WeightedFile, list[Row]]]
    """The rows of the files of --eval."""
    bad: list[Record]
    """The entries of the bad lines that --skip-bad skipped."""


def read_all(settings: Settings, check: Callable[[Record], str | None]) -> Checked:
    """Read and check every file of a run, before anything slow is imported. InputError if they are empty."""
    if settings.eval and settings.eval_fraction:
        raise InputError("--eval and --eval-fraction both choose what is held out; give only one of them")
    bad: list[Record] = []
    skipped = bad if settings.skip_bad else None
    found = Checked(
        [(file, read(file, check, settings.limit, skipped)) for file in weighted_files(settings.files)],
        [(file, read(file, check, None, skipped)) for file in weighted_files(settings.eval)],
        bad,
    )
    for files, purpose in ((found.training, "train"), (found.held_out, "evaluate")):
        if files and not any(rows for _, rows in files):
            why = "every line is bad" if bad else "the input is empty"
            raise InputError(f"{', '.join(file.path for file, _ in files)}: nothing to {purpose} on: {why}")
    return found


def prepare(checked: Checked, parts: Callable[[Record], list[P]], make: Callable[[P], T], settings: Settings) -> Data[T]:
    """Turn checked rows into examples.

    `parts` lists the parts of a record, each of which becomes an example. `make` turns a part into an example, and raises
    `Skipped` if it cannot. InputError if no example is left.
    """
    found: Data[T] = Data([], list(checked.bad), [])

    def examples(files: list[tuple[WeightedFile, list[Row]]], inputs: list[InputEntry]) -> list[tuple[Row, T]]:
        made = []
        for file, rows in files:
            usable: list[tuple[Row, T]] = []
            for row in rows:
                for number, part in enumerate(entries := parts(row.record), 1):
                    try:
                        usable.append((row, make(part)))
                    except Skipped as reason:
                        found.skip(row, f"round {number}: {reason}" if len(entries) > 1 else str(reason))
            sha256 = manifest.hash_file(file.path)
            inputs.append({"path": file.path, "sha256": sha256, "records": len(rows), "weight": file.weight})
            made += weigh(usable, file.weight, settings.seed, lambda entry: str(entry[0].record["id"]))
        if files and not made:
            raise InputError(f"{', '.join(f.path for f, _ in files)}: nothing to train or evaluate on: every row was skipped")
        return made

    found.examples = examples(checked.training, found.inputs)
    found.held_out = examples(checked.held_out, found.eval_inputs)
    if settings.eval_fraction:
        found.hold_out(settings.eval_fraction)
    if both := {row.origin for row, _ in found.examples} & {row.origin for row, _ in found.held_out}:
        shared = streams.plural(len(both), "record")
        streams.warn(f"--eval shares {shared} with the training data: results there do not measure generalisation")
    if len(found.skipped) > NAMED:
        streams.warn(f"{len(found.skipped)} rows skipped in total; skipped.jsonl beside the model lists them")
    return found
