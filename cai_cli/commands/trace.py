"""Follow a record back through every step that made it, to the file and the line of its prompt.

    cai trace runs/demo/preferences.jsonl red-001/0-1
    cai trace runs/demo/preferences.jsonl red-001/0-1 --verify

Each step is told from the manifest beside its output: its command, model, seed, and what it added to the record. The record
before a step has the same id, or the `source_id`, in one of the step's inputs. --verify computes the files' hashes and the
draws of principles and seeds again, and compares them with what the manifests and the record hold.

Not in the paper.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.data import jsonl
from cai_cli.data.ids import Ids
from cai_cli.data.jsonl import Record, as_object
from cai_cli.data.records import label_of, take_in
from cai_cli.errors import CaiError, InputError
from cai_cli.method.constitution import ROUND, Constitution
from cai_cli.pipeline import lineage, manifest
from cai_cli.pipeline.manifest import Manifest
from cai_cli.pipeline.seeds import draw
from cai_cli.report.sources import constitution_of, ids_before, inputs_first


@dataclass(frozen=True)
class Place:
    """A record in a file."""

    path: Path
    line: int
    record: Record

    @property
    def made(self) -> Manifest:
        """The manifest of the file; empty if it has none."""
        return lineage.beside(self.path)


def find(path: Path, ids: list[str]) -> Place | None:
    """The record with the first of `ids` that the file has. A record without an id has that of its content."""
    best: tuple[int, Place] | None = None
    names = Ids()
    for line in jsonl.read_lines(str(path)):
        if line.record is None:
            continue
        take_in(line.record)
        if names.error(line.record, line.number) or line.record["id"] not in ids:
            continue
        rank = ids.index(line.record["id"])
        if best is None or rank < best[0]:
            best = rank, Place(path, line.number, line.record)
        if rank == 0:
            break
    return best[1] if best else None


def before(place: Place) -> Place | None:
    """The record that a step made this one from; None if its file has no manifest, or no input of it has the record."""
    inputs = (path for _, path in lineage.inputs(place.made, place.path))
    for path in inputs_first(place.record, inputs):
        if path.is_file() and (found := find(path, ids_before(place.record))):
            return found
    return None


def added(new: Record, old: Record | None) -> Iterator[str]:
    """What a step added to a record, a line each."""
    old = old or {}
    for number, entry in enumerate(new.get("rounds") or []):
        previous = (old.get("rounds") or [])[number:][:1]
        if [entry] != previous:
            parts = [name for name in ("critique", "revision") if name in entry and name not in (previous or [{}])[0]]
            yield f"round {number + 1}: principle {entry.get('principle')}: {' and '.join(parts)}"
    if (label := label_of(new)) and label != old.get("label"):
        yield f"label: principle {', '.join(label['principles'])}: p_first {label['p_first']:.3f}"
    names = sorted(new.keys() - old.keys() - {"rounds", "label", "meta"}) if old else []
    if names:
        yield f"added {', '.join(names)}"


def draws(place: Place, old: Place | None, principles: Constitution | None) -> Iterator[tuple[str, bool]]:
    """(what was drawn, whether drawing it again gives the same) for the seeds of texts, and for principles at hand."""
    made, record = place.made, place.record
    seed, step, identity = made.get("seed"), made.get("step"), (old or place).record["id"]
    if seed is None:
        return
    meta = as_object(record.get("meta"))
    several = meta.get("responses")
    texts = several if "responses" in record and isinstance(several, list) else [meta.get("response")]
    for number, text in enumerate(map(as_object, texts)):
        if step == "sample" and "seed" in text and "turns" not in record:
            yield f"the seed of answer {number + 1}", text["seed"] == draw(seed, "sample", identity, 0, number)
    if step in ("critique", "revise") and old:
        earlier = old.record.get("rounds") or []
        for number, entry in enumerate(record.get("rounds") or []):
            had = earlier[number] if number < len(earlier) else {}
            if principles and "principle" not in had:
                right = entry["principle"] == principles.draw(seed, ROUND, identity, number).id
                yield f"the principle of round {number + 1}", right
            for name, kind in (("critique", "critique"), ("revision", "revise")):
                text = (entry.get("meta") or {}).get(name) or {}
                if name not in had and "seed" in text:
                    right = text["seed"] == draw(seed, kind, identity, number, text.get("attempt", 0))
                    yield f"the seed of the {name} of round {number + 1}", right
    if step == "label" and principles and (label := label_of(record)) and label["principles"]:
        i, j = label["pair"]
        again = principles.draw_several(seed, "label", f"{identity}/{i}-{j}", len(label["principles"]))
        yield "the principles of the label", [p.id for p in again] == label["principles"]


def verified(place: Place, old: Place | None) -> Iterator[tuple[str, bool]]:
    """(what was computed again, whether it is the same) of one step."""
    made = place.made
    if sha := made.get("output", {}).get("sha256"):
        yield f"the hash of {place.path}", manifest.hash_file(place.path) == sha
    for entry, (typed, path) in zip(made.get("inputs", []), lineage.inputs(made, place.path), strict=True):
        if entry.get("sha256") and path.is_file():
            yield f"the hash of its input {typed}", manifest.hash_file(path) == entry["sha256"]
    yield from draws(place, old, constitution_of(made, place.path))


@command(
    "Follow a record back through every step that made it, to the file and the line of its prompt.",
    "cai trace runs/demo/preferences.jsonl red-001/0-1\ncai trace runs/demo/preferences.jsonl red-001/0-1 --verify",
)
def app(
    file: Annotated[str, Argument(help="A JSONL file (.gz too), with the manifests beside it and its inputs.")],
    identity: Annotated[str, Argument(metavar="ID", help="A record's id.")],
    verify: Annotated[
        bool, Option("--verify", help="Compute hashes, seeds and principles again; exit code 1 if one differs.")
    ] = False,
) -> None:
    """Trace a record."""
    place = find(Path(file), [identity])
    if place is None:
        raise InputError(f"{file}: has no record '{identity}'; `cai show {shlex.quote(file)}` prints the ids")
    wrong: list[str] = []
    checked, seen = 0, set[tuple[Path, int]]()
    while place:
        seen.add((place.path.resolve(), place.line))
        old, made = before(place), place.made
        streams.echo(f"{place.path}:{place.line}  {place.record['id']}")
        if made:
            model, seed = (made.get("model") or {}).get("name", ""), f"seed {made['seed']}" if "seed" in made else ""
            streams.echo("  " + "  ".join(filter(None, [f"cai {made.get('step')}", made.get("finished", ""), str(model), seed])))
            streams.echo(f"  {shlex.join(made.get('command', []))}")
        for text in added(place.record, old.record if old else None):
            streams.echo(f"  {text}")
        for what, right in verified(place, old) if verify else ():
            checked += 1
            wrong += [] if right else [what]
            streams.echo(f"  {'the same' if right else 'DIFFERENT'}: {what}")
        if old is None and made.get("inputs"):
            streams.warn(f"trace: no input of {place.path} has the record; was a file moved, or is it not here?")
        if old and (old.path.resolve(), old.line) in seen:
            checked += 1
            wrong.append(f"{place.path}: its manifest says that it was made from {old.path}, and that was made from it")
            break
        place = old
    if wrong:
        raise CaiError(f"{len(wrong)} of {checked} differ: {'; '.join(wrong)}")
