"""Training files: check and weight them, and hold some of their records out.

Every trainer reads several files, each `FILE` or `FILE=WEIGHT`. Lines are checked before any model is loaded; --skip-bad skips
bad ones. Records that are valid but cannot be trained on (too long, empty) are skipped with a reason; nothing is truncated. The
examples are on disk (`prepared`); only their places are in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np

from cai_cli import streams
from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError
from cai_cli.pipeline import manifest
from cai_cli.pipeline.inputs import Check, is_pipe, preflight
from cai_cli.pipeline.seeds import draw, draw_uniform
from cai_cli.training.prepared import Source, fields_of
from cai_cli.training.settings import InputEntry, Settings

NAMED = 10
"""At most this many skipped rows are named on standard error; the rest are only counted."""
T = TypeVar("T")


@dataclass(frozen=True)
class WeightedFile:
    """One training file, FILE or FILE=WEIGHT."""

    path: str
    weight: float = 1.0
    """How many times its rows are taken; for a fraction, a seeded subset of them."""


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


def weigh(rows: list[T], weight: float, seed: int, name: Callable[[T], str]) -> list[T]:
    """`rows` taken `weight` times: whole copies, plus for the remaining fraction a subset drawn from (seed, name).

    The paper mixes revisions with helpful samples (section 3.2), and prompts of two kinds in RL (section 4.2).
    """
    whole, part = divmod(weight, 1)
    if not part:
        return rows * int(whole)
    ranked = sorted(range(len(rows)), key=lambda i: draw(seed, "weight", name(rows[i]), i))
    once_more = sorted(ranked[: round(part * len(rows))])
    return rows * int(whole) + [rows[i] for i in once_more]


class Checked(NamedTuple):
    """The files of a run, checked."""

    training: list[WeightedFile]
    held_out: list[WeightedFile]
    """The files of --eval."""
    sources: list[Source]
    """Those of `training`, then those of `held_out`."""
    records: int | None
    """How many records there are, if they were counted."""


def sources_of(settings: Settings) -> Checked:
    """The files of a run. InputError if one does not exist, or if flags conflict."""
    if settings.eval and settings.eval_fraction:
        raise InputError("--eval and --eval-fraction both choose what is held out; give only one of them")
    training, held_out = weighted_files(settings.files), weighted_files(settings.eval)
    for file in (*training, *held_out):
        if is_pipe(file.path):
            raise InputError(f"{file.path}: a pipe, and training reads its files more than once; give a file")
    limits = [(file, settings.limit) for file in training] + [(file, None) for file in held_out]
    return Checked(training, held_out, [Source(f.path, manifest.hash_file(f.path), limit) for f, limit in limits], None)


def check_lines(found: Checked, check: Check, skip_bad: bool) -> Checked:
    """Check every line, before anything slow is imported. InputError at the first bad one, or if there are none."""
    counts = [preflight(source.path, check, source.limit, skip_bad)["records"] for source in found.sources]
    parts = (counts[: len(found.training)], "train"), (counts[len(found.training) :], "evaluate")
    for (part, purpose), files in zip(parts, (found.training, found.held_out), strict=True):
        if files and not any(part):
            raise InputError(f"{_names(files)}: nothing to {purpose} on: the input is empty")
    return found._replace(records=sum(counts))


def _names(files: list[WeightedFile]) -> str:
    return ", ".join(file.path for file in files)


class Data(Generic[T]):
    """The examples of a run: which are trained on, and which are evaluated on. They stay on disk."""

    def __init__(self, folder: Path, found: Checked, settings: Settings, kind: type) -> None:
        """Choose among the examples in `folder` (`prepared.prepared`), of the TypedDict `kind`. InputError if none is left."""
        from datasets import Dataset

        self.paths = [source.path for source in found.sources]
        self.table = Dataset.from_file(str(folder / "examples.arrow"))
        # TRL keeps log probabilities of the starting model beside the table, by this name
        self.table._fingerprint += f"-{settings.dtype}"
        self.fields = fields_of(kind)
        self.counts = manifest.read(folder / "counts.json")
        self.training = self._weighted(found.training, 0, settings)
        """The numbers of the examples to train on, in order. A weight above 1 repeats them."""
        self.held_out = self._weighted(found.held_out, len(found.training), settings)
        """The numbers of the examples of --eval or --eval-fraction."""
        entries: list[InputEntry] = [
            {"path": file.path, "sha256": source.sha256, "records": records, "weight": file.weight}
            for file, source, records in zip([*found.training, *found.held_out], found.sources, self.counts["lines"], strict=True)
        ]
        self.inputs, self.eval_inputs = entries[: len(found.training)], entries[len(found.training) :]
        if settings.eval_fraction:
            self._hold_out(settings.eval_fraction)
        self._warn_of_overlap()
        self._warn_of_skipped()

    def column(self, name: str) -> Any:
        """A column of the table, a pyarrow array in chunks."""
        return self.table.data.column(name)

    def __getitem__(self, number: int) -> T:
        """An example."""
        row = dict(self.table[number])
        return cast(T, {name: json.loads(row[name]) if nested else row[name] for name, nested in self.fields.items()})

    def dataset(self, numbers: Sequence[int]) -> Any:
        """A `datasets.Dataset` of these examples."""
        return self.table.select_columns(list(self.fields)).select(numbers)

    def source(self, number: int) -> str:
        """The name of the file that an example is from, or from which `cai mix` took it."""
        return self.column("source")[number].as_py() or Path(self.paths[self.column("file")[number].as_py()]).name

    def sizes(self, numbers: Sequence[int]) -> list[int]:
        """The tokens of examples."""
        return np.asarray(self.column("tokens").to_numpy())[np.asarray(numbers, dtype=int)].astype(int).tolist()

    def longest(self) -> int:
        """The tokens of the longest example of the run."""
        return max(self.sizes([*self.training, *self.held_out]))

    def _weighted(self, files: list[WeightedFile], first: int, settings: Settings) -> list[int]:
        """The numbers of the examples of `files`, by their weights. `first`: the number of the first file."""
        found: list[int] = []
        place = self.column("file").to_numpy()
        usable, ids = np.asarray(self.column("skipped").is_null()), self.column("record_id")
        for number, file in enumerate(files, first):
            rows = np.flatnonzero((place == number) & usable).tolist()
            found += weigh(rows, file.weight, settings.seed, lambda row: str(ids[row].as_py()))
        if files and not found:
            why = "every row was skipped" if sum(self.counts["lines"]) else "every line is bad"
            raise InputError(f"{_names(files)}: nothing to {'evaluate' if first else 'train'} on: {why}")
        return found

    def _hold_out(self, fraction: float) -> None:
        """Move a share of the examples to `held_out`, by a hash of their origin. InputError if none is left to train on."""
        origins = self.column("origin")
        held = [draw_uniform("eval", origins[row].as_py()) < fraction for row in self.training]
        chosen = [row for row, out in zip(self.training, held, strict=True) if out]
        self.training = [row for row, out in zip(self.training, held, strict=True) if not out]
        if not self.training:
            raise InputError(f"--eval-fraction {fraction} leaves no row to train on")
        if not chosen:
            streams.warn(f"--eval-fraction {fraction} of so few rows holds out none, so there is no eval_loss")
        # a weight above 1 repeats a file's examples, and an evaluation needs each only once
        self.held_out += dict.fromkeys(chosen)

    def _warn_of_overlap(self) -> None:
        origins = self.column("origin")
        held = {origins[row].as_py() for row in self.held_out}
        if both := {origin for row in self.training if held and (origin := origins[row].as_py()) in held}:
            shared = streams.plural(len(both), "record")
            streams.warn(f"--eval shares {shared} with the training data: results there do not measure generalisation")

    def origins(self) -> Iterator[str]:
        """The ids of the records trained on, each once."""
        seen, origins = set[int](), self.column("origin")
        for row in self.training:
            origin = origins[row].as_py()
            if hash(origin) not in seen:
                seen.add(hash(origin))
                yield origin

    @property
    def skipped(self) -> int:
        """How many rows were skipped."""
        return len(self.table) - int(self.column("skipped").null_count)

    def skips(self) -> Iterator[Record]:
        """Why each skipped row was skipped, with its file, its line and its record."""
        for number in np.flatnonzero(np.asarray(self.column("skipped").is_valid())).tolist():
            path = self.paths[self.column("file")[number].as_py()]
            yield {"file": path, **json.loads(self.column("skipped")[number].as_py())}

    def _warn_of_skipped(self) -> None:
        for entry in islice(self.skips(), NAMED):
            where = f"{entry['file']}:{entry['line']}"
            identity = entry.get("record", {}).get("id")
            streams.warn(f"skipped {f'{identity} ({where})' if identity else where}: {entry['error']}")
        if self.skipped > NAMED:
            streams.warn(f"{self.skipped:,} rows skipped in total; skipped.jsonl beside the model lists them")
