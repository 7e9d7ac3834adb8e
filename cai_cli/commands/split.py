"""Split records in two by a hash of the id.

    cai split prompts.jsonl --fraction 0.2 -o held-out.jsonl --rest train.jsonl

A record's side depends on its id and --seed alone: it stays where it is when the file is shuffled,
grows, or passes through other steps. A record without an id gets one from its prompt.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice
from typing import Annotated

from typer import Option

from cai_cli import jsonl, manifest, streams
from cai_cli.commands.options import Limit, Seed, command
from cai_cli.records import Ids
from cai_cli.seeds import uniform


@command(
    "Split records in two by a hash of the id: the same record always lands on the same side.",
    "cai split prompts.jsonl --fraction 0.2 -o held-out.jsonl --rest train.jsonl",
)
def app(
    input: Annotated[str, "A JSONL file"],
    fraction: Annotated[float, Option("--fraction", min=0.0, max=1.0, help="Share of the records that goes to -o.")],
    output: Annotated[str, Option("--output", "-o", help="Where that share goes.")],
    rest: Annotated[str, Option("--rest", help="Where the others go.")],
    seed: Seed = 0,
    limit: Limit = None,
    quiet: bool = False,
) -> None:
    """Split records."""
    sides: tuple[list[bytes], list[bytes]] = ([], [])
    ids = Ids()
    for line in islice(jsonl.read_lines(input), limit):
        error = line.error if line.record is None else ids.error(line.record, line.number)
        if error or line.record is None:
            raise jsonl.bad_line(input, line.number, error or "")
        sides[uniform(seed, "split", line.record["id"]) >= fraction].append(jsonl.encode(line.record))
    with ExitStack():
        for path, lines in zip((output, rest), sides, strict=True):
            manifest.write_atomic(path, b"".join(lines))
    streams.say(f"cai split: {len(sides[0])} records -> {output}, {len(sides[1])} -> {rest}", quiet)
