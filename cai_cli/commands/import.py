"""Turn other people's data into records.

    cai import hh-rlhf harmless-base.jsonl.gz -o prompts.jsonl

hh-rlhf: each line holds a `chosen` and a `rejected` transcript. The prompt is everything up to
the last assistant's turn; a prompt that came before is left out, a pair whose prompts differ or
that isn't a transcript is set aside and named.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Annotated

from typer import Argument, Option

from cai_cli import hh, jsonl, outputs, streams
from cai_cli.commands.options import Limit, Output, Quiet, command, require_input
from cai_cli.errors import InputError
from cai_cli.jsonl import Record
from cai_cli.records import digest

NAMED = 10
"""Lines set aside that are named one by one; the rest are only counted."""


class Source(str, Enum):
    """The forms that can be imported."""

    hh_rlhf = "hh-rlhf"


@command(
    "Turn other people's data into prompt records.",
    "cai import hh-rlhf harmless-base.jsonl.gz --limit 200 -o prompts.jsonl",
)
def app(
    source: Annotated[Source, Argument(help="The form of the data.")],
    input: Annotated[str, Argument(help="A file (.gz too); - is standard input.")] = "-",
    output: Output = "-",
    limit: Limit = None,
    kind: Annotated[str | None, Option("--kind", help="A `kind` to give every record, by which `cai eval` can group.")] = None,
    quiet: Quiet = False,
) -> None:
    """Import."""
    require_input(input)
    counts = {"records_in": 0, "records_out": 0, "set_aside": 0, "repeated": 0}

    def records() -> Iterator[Record]:
        seen: set[str] = set()
        for line in jsonl.read_lines(input):
            if limit is not None and counts["records_out"] >= limit:
                return
            counts["records_in"] += 1
            if line.record is None:
                raise jsonl.bad_line(input, line.number, line.error or "")
            try:
                prompt = hh.pair_prompt(line.record)
            except ValueError as problem:
                counts["set_aside"] += 1
                if counts["set_aside"] <= NAMED:
                    streams.warn(f"import: set aside line {line.number}: {problem}")
                continue
            name = digest(prompt)
            if name in seen:
                counts["repeated"] += 1
                continue
            seen.add(name)
            counts["records_out"] += 1
            yield {"id": f"hh-{name[:12]}", **({"kind": kind} if kind else {}), "prompt": prompt}
        if counts["set_aside"] and not counts["records_out"]:
            raise InputError(f"{input}: no line of it is a pair of hh-rlhf transcripts; is it another form of data?")

    about = {"step": "import", "inputs": [outputs.source(input)], "counts": counts}
    outputs.write_file(output, map(jsonl.encode, records()), about)
    notes = [
        f"{counts[key]} {text}"
        for key, text in (("repeated", "repeated prompts left out"), ("set_aside", "set aside"))
        if counts[key]
    ]
    streams.say("; ".join([f"cai import: {counts['records_out']} prompts of {counts['records_in']} lines", *notes]), quiet)
