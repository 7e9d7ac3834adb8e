"""Split records into two parts by a hash of the id.

    cai split prompts.jsonl --fraction 0.2 -o held-out.jsonl --rest train.jsonl

A record's part depends only on its id and --seed. It stays the same when the file is shuffled, grows, or
passes through other steps. A record without an id gets one from its prompt.

Not in the paper.
"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from cai_cli import streams
from cai_cli.commands._command import command, require_input
from cai_cli.commands._flags import Input, Limit, Output, Quiet, Seed
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import encode
from cai_cli.data.spool import Spool
from cai_cli.errors import InputError
from cai_cli.pipeline import outputs
from cai_cli.pipeline.seeds import draw_uniform


@command(
    "Split records into two parts by a hash of the id: the same record is always in the same part.",
    "cai split prompts.jsonl --fraction 0.2 -o held-out.jsonl --rest train.jsonl",
)
def app(
    fraction: Annotated[float, Option("--fraction", min=0.0, max=1.0, help="Share of the records that goes to -o.")],
    input: Input = "-",
    output: Output = "-",
    rest: Annotated[str | None, Option("--rest", help="Where the other records go; by default they are dropped.")] = None,
    seed: Seed = 0,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Split records."""
    require_input(input)
    if rest == output:
        raise InputError("-o and --rest name the same file; give two")
    sides = Spool(), Spool()
    for record in streams.tracked("cai split", read_with_ids(input, limit), quiet):
        sides[draw_uniform(seed, "split", record["id"]) >= fraction].add(encode(record))
    about = {"step": "split", "seed": seed, "fraction": fraction, "inputs": [outputs.source(input)]}
    for path, lines in zip((output, rest), sides, strict=True):
        if path is not None:
            outputs.write_file(path, lines, about)
    others = f"{len(sides[1])} -> {rest}" if rest else streams.plural(len(sides[1]), "other")
    streams.say(f"cai split: {streams.plural(len(sides[0]), 'record')} -> {output}, {others}", quiet)
