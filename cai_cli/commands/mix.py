"""Join files of records by weight or by count, and shuffle them. Each record names the file it came from.

    cai mix harmless.jsonl helpful.jsonl=0.5 -o mixed.jsonl              all of one, half of the other
    cai mix harmless.jsonl=500 helpful.jsonl=200 --count -o mixed.jsonl

Paper, sections 4.1 and 4.2: one preference model is trained on AI labels for harmlessness and human labels for
helpfulness. Departures from the paper: the weights are yours to choose; the paper mixes 182,831 AI comparisons with
135,296 human ones.

The records taken from a file are drawn from (seed, place of the file, id), and the order from (seed, id). An id that
occurs in two files gets the file's name as a prefix. An id that is taken twice gets a number at its end.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated, NamedTuple

from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import Limit, Output, Quiet, Seed
from cai_cli.data import jsonl
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record
from cai_cli.data.spool import Spool
from cai_cli.errors import InputError
from cai_cli.pipeline import outputs
from cai_cli.pipeline.manifest import Manifest
from cai_cli.pipeline.seeds import draw
from cai_cli.training.data import weigh, weighted_files


def stem(path: str) -> str:
    """A file's name without its folders and suffixes."""
    return Path(path).name.split(".")[0]


class Taken(NamedTuple):
    """A record that is taken from a file."""

    id: str
    """Its id there."""
    place: int
    """Its number in the spool."""


class Named(NamedTuple):
    """A record of the mixture."""

    id: str
    """Its new id, which no other has."""
    prefix: str
    """The name of its file."""
    taken: Taken

    def line(self, spool: Spool) -> bytes:
        """The record, with its id and the name of its file."""
        record: Record = jsonl.loads(spool[self.taken.place])
        origin = {"source_id": self.taken.id, **record} if self.id != self.taken.id else record
        return jsonl.encode({**origin, "id": self.id, "mixed_from": record.get("mixed_from", self.prefix)})


def named(parts: list[tuple[str, list[Taken]]]) -> list[Named]:
    """All records, each with a unique id. `parts`: (path, records taken) of each file."""
    owners: dict[str, str] = {}  # the file of each id, or "" if several have it
    for path, rows in parts:
        for row in rows:
            if owners.setdefault(row.id, path) != path:
                owners[row.id] = ""
    stems = [stem(path) for path, _ in parts]
    prefixes = {path: stem(path) if stems.count(stem(path)) == 1 else path for path, _ in parts}
    taken: set[str] = set()
    found = []
    for path, rows in parts:
        for row in rows:
            identity = row.id if owners[row.id] else f"{prefixes[path]}:{row.id}"
            free = (f"{identity}#{n}" for n in count(2))
            while identity in taken:
                identity = next(name for name in free if not owners.get(name))
            taken.add(identity)
            found.append(Named(identity, prefixes[path], row))
    return found


@command(
    "Join files of records by weight or count, and shuffle them; `mixed_from` names each record's file.",
    "cai mix preferences.jsonl helpful.jsonl=0.5 -o mixed.jsonl",
)
def app(
    files: Annotated[
        list[str], Argument(metavar="FILE[=WEIGHT]...", help="JSONL files (.gz too), each taken WEIGHT times: 0.5 is half of it.")
    ],
    output: Output = "-",
    by_count: Annotated[bool, Option("--count", help="The numbers after = are numbers of records.")] = False,
    seed: Seed = 0,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Mix files."""
    parts: list[tuple[str, list[Taken]]] = []
    spool = Spool()
    for place, (entry, source) in enumerate(zip(files, weighted_files(files), strict=True)):
        rows = []
        for record in streams.tracked(f"cai mix: {source.path}", read_with_ids(source.path, limit), quiet):
            rows.append(Taken(record["id"], len(spool)))
            spool.add(jsonl.encode(record))
        wanted = source.weight
        if by_count and source.path != entry:  # a file without a number is taken whole
            if wanted != int(wanted) or wanted > len(rows):
                have = streams.plural(len(rows), "record")
                raise InputError(f"{source.path}: has {have}, which is fewer than {wanted:g}; give a whole number up to that")
            wanted = wanted / len(rows)
        parts.append((source.path, weigh(rows, wanted, draw(seed, "mix", place), lambda row: row.id)))
    mixed = named(parts)
    mixed.sort(key=lambda entry: draw(seed, "mix", entry.id))
    about: Manifest = {
        "step": "mix",
        "seed": seed,
        "inputs": [{**outputs.source(path), "taken": len(rows)} for path, rows in parts],
    }
    outputs.write_file(output, (entry.line(spool) for entry in mixed), about)
    each = ", ".join(f"{len(rows)} of {path}" for path, rows in parts)
    streams.say(f"cai mix: {streams.plural(len(mixed), 'record')}: {each}", quiet)
