"""Split records in two by a hash of the id.

    cai split prompts.jsonl --fraction 0.2 -o held-out.jsonl --rest train.jsonl

A record's side depends on its id and --seed alone: it stays where it is when the file is shuffled,
grows, or passes through other steps. A record without an id gets one from its prompt.
"""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from cai_cli import outputs, streams
from cai_cli.commands.options import Limit, Output, Quiet, Seed, command, require_input
from cai_cli.errors import InputError
from cai_cli.jsonl import encode
from cai_cli.records import read_with_ids
from cai_cli.seeds import uniform


@command(
    "Split records in two by a hash of the id: the same record always lands on the same side.",
    "cai split prompts.jsonl --fraction 0.2 -o held-out.jsonl --rest train.jsonl",
)
def app(
    fraction: Annotated[float, Option("--fraction", min=0.0, max=1.0, help="Share of the records that goes to -o.")],
    input: Annotated[str, Argument(help="A JSONL file (.gz too); - is standard input.")] = "-",
    output: Output = "-",
    rest: Annotated[str | None, Option("--rest", help="Where the others go; nowhere by default.")] = None,
    seed: Seed = 0,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Split records."""
    require_input(input)
    if rest == output:
        raise InputError("-o and --rest name the same file; give two")
    sides: tuple[list[bytes], list[bytes]] = ([], [])
    for record in read_with_ids(input, limit):
        sides[uniform(seed, "split", record["id"]) >= fraction].append(encode(record))
    about = {"step": "split", "seed": seed, "fraction": fraction, "inputs": [outputs.source(input)]}
    for path, lines in zip((output, rest), sides, strict=True):
        if path is not None:
            outputs.write_file(path, lines, about)
    others = f"{len(sides[1])} -> {rest}" if rest else f"{len(sides[1])} others"
    streams.say(f"cai split: {len(sides[0])} records -> {output}, {others}", quiet)
