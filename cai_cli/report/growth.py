"""What a run of another size would take, from the counts of a small one: records, tokens, seconds, and bytes of disk.

Everything grows in proportion to records. A source is a file that the run began with, or that `cai split` or `cai prompts` made.
The sources that a trainer's data is made from grow, and so does what is made from them. Other files, such as held-out prompts
and the answers to them, keep their size: an evaluation does not grow with the training data. Without a trainer, all grow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cai_cli.data import jsonl
from cai_cli.errors import InputError
from cai_cli.pipeline import lineage
from cai_cli.report.run import Step, whole

TRAINERS = ("train-sft", "train-pm", "train-dpo", "rl")
_DIVIDED = ("split", "prompts")
"""Steps whose output is a source, because it does not grow with their input."""


@dataclass(frozen=True)
class Row:
    """One step of the planned run. None: the step does not count it."""

    name: str
    kind: str
    records_in: float | None
    records_out: float | None
    steps: float | None
    read: float
    """Tokens of prompts, with the reused ones. Of a trainer, the tokens of its examples."""
    generated: float
    reused: float
    """Tokens of prompts that were not computed: shared prefixes, and kept answers."""
    seconds: float
    """Of one device."""
    disk: float
    """Bytes."""


class Growth:
    """How many times larger each step of a run becomes."""

    def __init__(self, found: Sequence[Step]) -> None:
        """`found`: the run's finished steps in their order. InputError if none of them counts records."""
        self.steps = {os.path.realpath(step.path): step for step in whole(found) if step.kind != "eval figures"}
        parts = {os.path.realpath(part): key for key, step in self.steps.items() for part in step.parts}
        self.inputs = {key: {} if step.kind in _DIVIDED else _inputs(step, parts) for key, step in self.steps.items()}
        self.sources: dict[str, float] = {}
        """The records of each source that a counted step reads, in the order in which they are read."""
        trained: set[str] = set()
        for key, step in self.steps.items():
            if step.counts.get("records_in"):
                mine = self._sources(key, set())
                self.sources = {**self.sources, **{path: n for path, n in mine.items() if path not in self.sources}}
                trained |= mine.keys() if step.kind in TRAINERS else set()
        self.growing = [key for key, n in self.sources.items() if n and (key in trained or not trained)]
        if not self.growing:
            raise InputError("no step of the run counts its records; give the folder of a finished small run")
        self.revised = next((key for key in reversed(self.steps) if self.steps[key].kind == "revise"), "")
        """The output of the last round of critique and revision."""
        chain = [self.revised] if self.revised else []
        for key in chain:  # it grows while it is read
            halves = [path for path in self.inputs[key] if path in self.steps and path not in chain]
            chain += [path for path in halves if self.steps[path].kind in ("critique", "revise")]
        self.rounds = sum(self.rounds_of(key) for key in chain if self.steps[key].kind == "revise")
        self.factors: dict[str, float] = {}

    def rounds_of(self, key: str) -> int:
        """The rounds that one `cai revise` made."""
        return int(_number(_fingerprint(self.steps[key]).get("rounds"), 1))

    def _sources(self, key: str, seen: set[str]) -> dict[str, float]:
        """The sources of a step's data, with their records."""
        found: dict[str, float] = {}
        seen.add(key)
        for path, records in self.inputs[key].items():
            if not self.inputs.get(path):
                found.setdefault(path, records)
            elif path not in seen:
                found = {**self._sources(path, seen), **found}
        return found

    def grow(self, given: Mapping[str, float]) -> list[tuple[str, float, float]]:
        """Set the sizes. `given`: records by the source's name; "" names the first that grows, and sets the others in proportion.

        Returns (name, records now, planned) of each source, those that grow first. InputError for a name that is no source.
        """
        names = {Path(key).name: key for key in reversed(self.sources)}
        first = self.sources[self.growing[0]]
        self.factors = {key: given.get("", first) / first if key in self.growing else 1.0 for key in self.sources}
        for name, records in given.items():
            if name and Path(name).name not in names:
                raise InputError(f"--prompts {name}=...: the run did not begin with such a file; it did with {', '.join(names)}")
            if name:
                key = names[Path(name).name]
                self.factors[key] = records / max(self.sources[key], 1)
        order = [*self.growing, *(key for key in self.sources if key not in self.growing)]
        return [(Path(key).name, self.sources[key], self.sources[key] * self.factors[key]) for key in order]

    def factor(self, key: str) -> float:
        """How many times more records a file has: the mean of its inputs, weighted by their records."""
        if key not in self.factors:
            self.factors[key] = 1.0  # a manifest may name its own output among its ancestors
            self.factors[key] = self.work(key, self.rounds)
        return self.factors[key]

    def work(self, key: str, rounds: int) -> float:
        """How many times more work a step has, with so many rounds: a scorer and `--revisions all` read every revision."""
        step, inputs = self.steps.get(key), self.inputs.get(key, {})
        share = 1.0
        if step and step.kind == "score":
            share = (rounds + 1) / (self.rounds + 1)
        elif step and _fingerprint(step).get("revisions") == "all":
            share = rounds / max(self.rounds, 1)
        grown = [n * self.factor(path) * (share if path == self.revised else 1) for path, n in inputs.items()]
        return sum(grown) / sum(inputs.values()) if any(inputs.values()) else self.factors.get(key, 1.0)

    def row(self, key: str, rounds: int, rates: Mapping[str, float]) -> Row:
        """A step of the planned run. `rates`: tokens per second by the step's kind, "" for all others; else its own rate."""
        step, grown, work = self.steps[key], self.factor(key), self.work(key, rounds)
        counts = {name: _number(count) for name, count in step.counts.items()}
        read = counts.get("tokens", counts.get("prompt_tokens", 0.0))
        generated, reused = counts.get("completion_tokens", 0.0), counts.get("reused_tokens", 0.0)
        rate = rates.get(step.kind, rates.get(""))
        own = counts.get("seconds", 0.0) * _number(step.made.get("processes"), 1)
        seconds = max(read + generated - reused, 0) / rate if rate else own
        return Row(
            name=step.name,
            kind=step.kind,
            records_in=counts["records_in"] * grown if "records_in" in counts else None,
            records_out=counts["records_out"] * (work if "steps" in counts else grown) if "records_out" in counts else None,
            steps=counts["steps"] * work if "steps" in counts else None,
            read=read * work,
            generated=generated * work,
            reused=reused * work,
            seconds=seconds * work,
            disk=self._disk(key) * (1 if step.path.is_dir() else work),  # a model keeps its size
        )

    def _disk(self, key: str) -> int:
        """The bytes of a step's output, with those of all its shards, or of a source."""
        parts = self.steps[key].parts if key in self.steps else ()
        return sum(map(_size, parts or (Path(key),)))

    def rows(self, rounds: int, rates: Mapping[str, float]) -> list[Row]:
        """The steps that count something or grow. More rounds repeat the last critique and revision, each with a larger file."""
        grown = {key for key in self.steps if {key, *self._sources(key, set())} & set(self.growing)}
        rows = {key: self.row(key, rounds, rates) for key, step in self.steps.items() if step.counts or key in grown}
        made = []
        for key, row in rows.items():
            made.append(row)
            if key == self.revised:
                pair = [half for half in self.inputs[key] if half in rows and rows[half].kind == "critique"] + [key]
                before = next(iter(self.inputs[pair[0]]), "")
                here = self.rounds_of(key)
                wider = (row.disk - self._disk(before) * self.factor(before)) / here
                for number in range(1, rounds - self.rounds + 1):
                    for half in pair:
                        disk = wider if here > 1 else rows[half].disk + number * wider  # one file for all rounds, or one each
                        made.append(_part(rows[half], f"{rows[half].name}, round {self.rounds + number}", here, disk))
        return made


def _part(row: Row, name: str, rounds: int, disk: float) -> Row:
    """One round of a row that has `rounds`."""
    work = {key: getattr(row, key) / rounds for key in ("read", "generated", "reused", "seconds")}
    return replace(row, name=name, disk=disk, **work)


def total(rows: Sequence[Row]) -> Row:
    """The sums of tokens, seconds and disk."""
    sums = [sum(getattr(row, key) for row in rows) for key in ("read", "generated", "reused", "seconds", "disk")]
    return Row("all", "", None, None, None, *sums)


def _inputs(step: Step, parts: Mapping[str, str]) -> dict[str, float]:
    """The files that a step read, and their records. `parts`: from the output of a shard to the step's whole output."""
    found: dict[str, float] = {}
    entries = step.made.get("inputs", [])
    for entry, (_, path) in zip(entries, lineage.inputs(step.made, step.path), strict=True):
        alone = step.counts.get("records_in") if len(entries) == 1 else None
        records = entry.get("records", alone)
        lines = sum(1 for _ in jsonl.read_lines(str(path))) if records is None and path.is_file() else 0
        key = parts.get(os.path.realpath(path), os.path.realpath(path))
        found[key] = found.get(key, 0) + _number(records, lines)
    return found


def _fingerprint(step: Step) -> jsonl.Record:
    return jsonl.as_object(step.made.get("fingerprint"))


def _number(value: object, default: float = 0) -> float:
    """A count of a manifest, which is only a file: the default if it is no number."""
    return value if isinstance(value, int | float) and 0 <= value < float("inf") else default


def _size(path: Path) -> int:
    """The bytes of a file, or of all files of a directory; 0 if there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
