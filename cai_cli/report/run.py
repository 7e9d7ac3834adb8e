"""The steps of a run, from the manifests in its folder: finished ones, and those still at work."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_cli import streams
from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError
from cai_cli.pipeline import lineage, manifest
from cai_cli.pipeline.manifest import Manifest

_END = ".manifest.json"
_PARTIAL = (".partial.manifest.json", "manifest.partial.json")
"""The manifests of unfinished steps: beside a file, and in a model's directory (`outputs`, `workspace`)."""


@dataclass(frozen=True)
class Step:
    """One output of a run."""

    path: Path
    """The file, or the model's directory. While the step is unfinished, it does not exist yet."""
    name: str
    """The path from the run's folder."""
    made: Manifest
    finished: bool = True
    parts: tuple[Path, ...] = ()
    """The outputs of the shards that it stands for (`whole`)."""

    @property
    def kind(self) -> str:
        """The step's name, such as "critique"."""
        return str(self.made.get("step") or self.made.get("fingerprint", {}).get("step", ""))

    @property
    def command(self) -> list[str]:
        """The command as it was typed."""
        return [str(word) for word in self.made.get("command", [])]

    @property
    def counts(self) -> Record:
        """Records, tokens and seconds. Of an unfinished step, the records that it has written."""
        return self.made.get("counts") or {}

    @property
    def tokens(self) -> int:
        """The tokens that it read and wrote."""
        counts = self.counts
        return int(counts.get("tokens", counts.get("prompt_tokens", 0) + counts.get("completion_tokens", 0)))

    @property
    def folder(self) -> Path:
        """Where a trainer's logs are: the model's directory, or its .partial while the step is unfinished."""
        return self.path if self.finished else self.path.with_name(f"{self.path.name}.partial")


def steps(run: Path) -> list[Step]:
    """The finished steps of a folder in the order in which they ended, then the unfinished ones; no shards that were joined.

    InputError if it is no folder, or has no step.
    """
    if not run.is_dir():
        raise InputError(f"{run}: no such folder; give the folder that holds the run's files")
    found = []
    paths = [path for path in run.rglob("*manifest*.json") if "checkpoints" not in path.parts]
    for path in sorted(paths, key=_changed):  # of steps that ended in the same second, the one that wrote first comes first
        with suppress(FileNotFoundError):  # a step may end meanwhile
            if path.name.endswith(_PARTIAL):
                found.append(_unfinished(run, path))
            elif path.name == "manifest.json" or path.name.endswith(_END):
                output = path.parent if path.name == "manifest.json" else path.with_name(path.name.removesuffix(_END))
                found.append(_checked(Step(output, _name(output, run), manifest.read(path)), path))
    if not found:
        raise InputError(f"{run}: has no manifest of a step; give the folder that holds the run's files")
    entries = [(step, entry) for step in found for entry in step.made.get("joined", [])]
    joined = {os.path.realpath(lineage.find(entry["path"], step.path, entry.get("sha256"))) for step, entry in entries}
    found = [step for step in found if "shard" not in step.made or os.path.realpath(step.path) not in joined]
    return sorted(found, key=lambda step: (not step.finished, step.made.get("finished", "")))


def whole(found: Sequence[Step]) -> list[Step]:
    """The steps, with the shards of one step as one, whose counts are their sums."""
    groups: dict[str, list[Step]] = {}
    for step in found:
        key = repr({**step.made["fingerprint"], "shard": None}) if step.made.get("shard") else str(step.path)
        groups.setdefault(key, []).append(step)
    made = []
    for first, *others in groups.values():
        if others:
            total = Counter[str]()
            for step in (first, *others):
                total.update(step.counts)
            parts = tuple(step.path for step in (first, *others))
            name = f"{first.name} and {streams.plural(len(others), 'more shard')}"
            first = Step(first.path, name, {**first.made, "counts": dict(total)}, parts=parts)
        made.append(first)
    return made


def _changed(path: Path) -> tuple[int, str]:
    """When a file was written, and its path; 0 if it was renamed meanwhile."""
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns, str(path)
    return 0, str(path)


def _checked(step: Step, path: Path) -> Step:
    """The step, if its manifest has the form of cai's. InputError otherwise."""
    try:
        list(models(step)), list(lineage.inputs(step.made, step.path)), step.command, step.tokens
        [lineage.find(entry["path"], step.path, entry.get("sha256")) for entry in step.made.get("joined", [])]
        dict(step.made["fingerprint"] if "shard" in step.made else {})
        if wrong := [name for name, value in step.counts.items() if not isinstance(value, int | float)]:
            raise TypeError(f"counts.{wrong[0]} is not a number")
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise InputError(f"{path}: not a manifest of cai ({problem!r}); repair it, or remove it with its output") from None
    return step


def _name(path: Path, run: Path) -> str:
    return run.name if path == run else path.relative_to(run).as_posix()


def _unfinished(run: Path, path: Path) -> Step:
    """The step of an unfinished output, with the number of the lines that it has written."""
    if path.name == _PARTIAL[1]:
        output, lines = path.parent.with_name(path.parent.name.removesuffix(".partial")), path.parent / "metrics.jsonl"
    else:
        output = path.with_name(path.name.removesuffix(_PARTIAL[0]))
        lines = path.with_name(f"{output.name}.partial")
    count = lines.read_bytes().count(b"\n") if lines.is_file() else 0
    made = manifest.read(path)
    key = "steps" if path.name == _PARTIAL[1] else "records_out"
    return Step(output, _name(output, run), {**made, "counts": {key: count}}, finished=False)


def models(step: Step) -> Iterator[Path]:
    """The model, and the preference models and feedback models that a step used."""
    for entry in [step.made.get("model"), *(step.made.get("pm") or []), *(step.made.get("feedback") or [])]:
        if isinstance(entry, dict) and "name" in entry:
            yield lineage.find(str(entry["name"]), step.path)


@dataclass
class Node:
    """A box of the picture: a step's output, or a file that the run began with."""

    name: str
    step: Step | None
    depth: int = 0
    """Its row: one below the lowest of its inputs."""
    column: int = 0
    inputs: tuple[int, ...] = ()
    """Indices of the nodes that it was made from."""


def graph(found: list[Step]) -> list[Node]:
    """The run's steps as nodes, and the files that they read and no step made. A model is an input if the run made it."""
    shown = [step for step in found if step.kind != "eval figures"]
    places = {os.path.realpath(step.path): i for i, step in enumerate(shown)}
    nodes = [Node(step.name, step) for step in shown]
    for i, step in enumerate(shown):
        inputs = [places.get(os.path.realpath(path)) for path in models(step)]
        for typed, path in lineage.inputs(step.made, step.path):
            key = os.path.realpath(path)
            key = os.path.dirname(key) if os.path.dirname(key) in places else key  # a log in a model's directory
            if key not in places:
                places[key] = len(nodes)
                nodes.append(Node(typed, None))
            inputs.append(places[key])
        nodes[i].inputs = tuple(dict.fromkeys(j for j in inputs if j is not None and j != i))
    _place(nodes)
    return nodes


def _place(nodes: list[Node]) -> None:
    """Give each node its row and its column."""
    for _ in nodes:  # longest path; ends early unless a manifest names its own output among its ancestors
        rows = [max((nodes[j].depth + 1 for j in node.inputs), default=0) for node in nodes]
        if rows == [node.depth for node in nodes]:
            break
        for node, row in zip(nodes, rows, strict=True):
            node.depth = min(row, len(nodes))
    lowest = max((node.depth for node in nodes), default=0) + 1
    for node in nodes:
        if node.step and not node.step.finished:  # its manifest does not name its inputs yet
            node.depth = lowest
    for node in nodes:  # what only one step reads stands right above it
        if node.step is None and (users := [other.depth for other in nodes if nodes.index(node) in other.inputs]):
            node.depth = min(users) - 1
    taken: set[tuple[int, int]] = set()
    for node in sorted(nodes, key=lambda node: node.depth):  # below its first input, or else in the next free column
        node.column = nodes[node.inputs[0]].column if node.inputs else 0
        while (node.depth, node.column) in taken:
            node.column += 1
        taken.add((node.depth, node.column))


def curves(found: list[Step]) -> list[Record]:
    """The training curves: `name`, and `columns` of numbers (None where a step has none) by their name; the first is `step`."""
    made = []
    for step in found:
        path = step.folder / "metrics.jsonl"
        lines = _lines(path, step.finished) if path.is_file() else []
        names = [name for name in dict.fromkeys(key for line in lines for key in line) if name not in ("step", "epoch")]
        if len(lines) > 1:
            columns = {name: [_number(line.get(name)) for line in lines] for name in ("step", *names)}
            made.append({"name": step.name, "columns": columns})
    return made


def _lines(path: Path, finished: bool) -> list[Record]:
    """The lines of a log. The last one of an unfinished run may be cut."""
    found = list(jsonl.read_lines(str(path)))
    if found and not finished and not found[-1].raw.endswith(b"\n"):
        found.pop()
    if bad := next((line for line in found if line.record is None), None):
        raise jsonl.bad_line(str(path), bad.number, bad.error or "")
    return [line.record for line in found if line.record is not None]


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def measures(found: list[Step]) -> list[tuple[Step, list[Record]]]:
    """The rows that `cai eval` wrote into the run: (step, its rows)."""
    rows = [(step, list(jsonl.read(str(step.path)))) for step in found if step.kind == "eval" and step.path.is_file()]
    return [(step, each) for step, each in rows if each]
