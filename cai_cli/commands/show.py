"""Print records as a person would want to read them.

    cai show revisions.jsonl --limit 3
    cai show preferences.jsonl --id red-007/0-1

Texts are printed as they stand, except that control characters, which could move the cursor or
change the terminal, are spelled out.
"""

from __future__ import annotations

import re
from typing import Annotated

from rich.console import Console
from rich.text import Text
from typer import Argument, Option

from cai_cli.commands.options import Limit, command, require_input
from cai_cli.errors import InputError
from cai_cli.jsonl import Record
from cai_cli.records import as_messages, read_with_ids

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text with control and direction characters spelled out."""
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def parts(record: Record) -> list[tuple[str, str]]:
    """(heading, text) of what a record holds, in reading order."""
    found = [(m["role"], m["content"]) for m in as_messages(record.get("prompt") or [])]
    scores = record.get("scores", {})

    def scored(name: str, score: float | None) -> str:
        return name if score is None else f"{name} (score {score:.2f})"

    if "response" in record:
        found.append((scored("response", scores.get("response")), record["response"]))
    for i, text in enumerate(record.get("responses", [])):
        found.append((scored(f"response {i}", (scores.get("responses") or {i: None})[i]), text))
    for i, entry in enumerate(record.get("rounds") or []):
        found.append((f"critique {i + 1}, by {entry.get('principle', '?')}", entry.get("critique", "")))
        if "revision" in entry:
            found.append((scored(f"revision {i + 1}", (scores.get("rounds") or {i: None})[i]), entry["revision"]))
    for side in ("chosen", "rejected"):
        if side in record:
            turns = as_messages(record[side])
            name = f"{side}, p {record['p_chosen']:.3f}" if side == "chosen" and "p_chosen" in record else side
            found.append((scored(name, scores.get(side)), turns[-1]["content"]))
    return found


@command("Print records as a person would want to read them.", "cai show revisions.jsonl --limit 3")
def app(
    input: Annotated[str, Argument(help="A JSONL file (.gz too); - is standard input.")] = "-",
    limit: Limit = None,
    id: Annotated[str | None, Option("--id", help="Only the record of this id.")] = None,
) -> None:
    """Show records."""
    require_input(input)
    console = Console(highlight=False)
    found = False
    for record in read_with_ids(input, limit):
        if id is not None and record["id"] != id:
            continue
        found = True
        title = " ".join(str(record[key]) for key in ("id", "kind") if key in record)
        console.rule(Text(visible(title), style="bold"), align="left")
        for heading, text in parts(record):
            console.print(Text(visible(heading), style="bold cyan"))
            console.print(Text(visible(text)), soft_wrap=not console.is_terminal)
            console.print()
    if id is not None and not found:
        raise InputError(f"{input}: no record has the id '{id}'")
