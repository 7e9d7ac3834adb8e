"""Join files of records by weight or by count, shuffled, each record naming the file it came from.

    cai mix harmless.jsonl helpful.jsonl=0.5 -o mixed.jsonl              all of one, half of the other
    cai mix harmless.jsonl=500 helpful.jsonl=200 --count -o mixed.jsonl

Paper, section 4.1: the preference model is trained on AI harmlessness labels and people's helpfulness labels
together. A file's part and the order are drawn from (seed, file's place, id). Ids that stand in two files, or are
taken twice, get the file's name before them, or a number after.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from cai_cli import jsonl, outputs, streams
from cai_cli.commands.options import Limit, Output, Quiet, Seed, command
from cai_cli.errors import InputError
from cai_cli.jsonl import Record
from cai_cli.records import read_with_ids
from cai_cli.seeds import draw
from cai_cli.training.data import sources, weigh


def stem(path: str) -> str:
    """A file's name without folders and endings."""
    return Path(path).name.split(".")[0]


def named(parts: list[tuple[str, list[Record]]]) -> list[Record]:
    """All records, each with the file that it came from in `mixed_from`, and an id that no other has."""
    owners: dict[str, set[str]] = {}
    for path, rows in parts:
        for record in rows:
            owners.setdefault(record["id"], set()).add(path)
    stems = [stem(path) for path, _ in parts]
    prefixes = {path: stem(path) if stems.count(stem(path)) == 1 else path for path, _ in parts}
    used = {identity for identity, paths in owners.items() if len(paths) == 1}
    taken: set[str] = set()
    found = []
    for path, rows in parts:
        for record in rows:
            identity = record["id"] if len(owners[record["id"]]) == 1 else f"{prefixes[path]}:{record['id']}"
            free = (f"{identity}#{n}" for n in count(2))
            while identity in taken:
                identity = next(name for name in free if name not in used)
            taken.add(identity)
            origin = {"source_id": record["id"], **record} if identity != record["id"] else record
            found.append({**origin, "id": identity, "mixed_from": record.get("mixed_from", prefixes[path])})
    return found


@command(
    "Join files of records by weight or count, shuffled; each record keeps where it came from.",
    "cai mix preferences.jsonl helpful.jsonl=0.5 -o mixed.jsonl",
)
def app(
    files: Annotated[
        list[str], Argument(metavar="FILE[=WEIGHT]...", help="JSONL files (.gz too), each taken WEIGHT times: 0.5 is half of it.")
    ],
    output: Output = "-",
    by_count: Annotated[bool, Option("--count", help="The numbers after = are counts of records.")] = False,
    seed: Seed = 0,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Mix files."""
    parts: list[tuple[str, list[Record]]] = []
    for place, (entry, source) in enumerate(zip(files, sources(files), strict=True)):
        rows = list(read_with_ids(source.path, limit))
        wanted = source.weight
        if by_count and source.path != entry:  # a file without a number is taken whole
            if wanted != int(wanted) or wanted > len(rows):
                have = streams.plural(len(rows), "record")
                raise InputError(f"{source.path}: has {have}, of which {wanted:g} can't be taken; give a whole number up to that")
            wanted = wanted / len(rows)
        parts.append((source.path, weigh(rows, wanted, draw(seed, "mix", place), lambda record: str(record["id"]))))
    mixed = named(parts)
    mixed.sort(key=lambda record: draw(seed, "mix", record["id"]))
    about: dict[str, Any] = {
        "step": "mix",
        "seed": seed,
        "inputs": [{**outputs.source(path), "taken": len(rows)} for path, rows in parts],
    }
    outputs.write_file(output, map(jsonl.encode, mixed), about)
    each = ", ".join(f"{len(rows)} of {path}" for path, rows in parts)
    streams.say(f"cai mix: {len(mixed)} records: {each}", quiet)
