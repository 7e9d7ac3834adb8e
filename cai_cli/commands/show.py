"""Print records for a person to read.

    cai show revisions.jsonl --random 5
    cai show revisions.jsonl --flagged --principle honesty
    cai show preferences.jsonl --id red-007/0-1

Each round shows its principle, critique and revision. The revision is shown as a difference to the answer before it:
removed words as [-removed-] and added words as {+added+}, unless the two have little in common. Texts are printed as
they are, except for control characters, which could move the cursor or change the terminal: they are spelled out.

Not in the paper.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Iterable
from typing import Annotated

from rich.console import Console
from rich.text import Text
from typer import Option

from cai_cli import streams
from cai_cli.commands._command import command, require_input
from cai_cli.commands._flags import Input, Limit
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Label, Round, as_messages, read_with_ids, shape_error
from cai_cli.errors import InputError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ALIKE = 0.5
"""Similarity (0 to 1) from which a revision is shown as a difference; below it the two texts share few words."""
Part = tuple[str, str, str | None]
"""A heading, a text, and the answer that the text revises (None if it is not a revision)."""


def visible(text: str) -> str:
    """Text with control and direction characters spelled out."""
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def word_diff(before: str, after: str) -> Text:
    """`after`, with the words it adds to `before` as {+added+}, and those it removes as [-removed-].

    Only `after`, unmarked, if the two have little in common.
    """
    old, new = (re.findall(r"\s+|\S+", visible(text)) for text in (before, after))
    words = difflib.SequenceMatcher(None, before.split(), after.split(), autojunk=False)
    if words.ratio() < ALIKE:
        return Text(visible(after))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    shown = Text()
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            shown.append("".join(new[c:d]))
            continue
        if removed := "".join(old[a:b]):
            shown.append(f"[-{removed}-]", "red")
        if added := "".join(new[c:d]):
            shown.append(f"{{+{added}+}}", "green")
    return shown


def parts(record: Record) -> list[Part]:
    """Every text of a record, in reading order."""
    turns = [*as_messages(record.get("prompt") or []), *record.get("messages", [])]
    completion = record.get("completion", [])
    turns += [{"role": "completion", "content": completion}] if isinstance(completion, str) else completion
    found: list[Part] = [(turn["role"], turn["content"], None) for turn in turns]
    scores = record.get("scores") or {}

    def score(field: str, i: int) -> float | None:
        return next(iter((scores.get(field) or [])[i : i + 1]), None)

    def scored(name: str, score: float | None) -> str:
        return name if score is None else f"{name} (score {score:.2f})"

    if "response" in record:
        cut = " [cut]" if (record.get("meta") or {}).get("response", {}).get("finish") == "length" else ""
        found.append((scored("response", scores.get("response")) + cut, record["response"], None))
    for i, text in enumerate(record.get("responses", [])):
        found.append((scored(f"response {i}", score("responses", i)), text, None))
    current = record.get("response")
    for i, entry in enumerate(record.get("rounds") or []):
        by = f", by {entry.get('principle', '?')}"
        if "critique" in entry:
            found.append((f"critique {i + 1}{by}{marks(entry, 'critique')}", entry["critique"], None))
        if "revision" in entry:
            name = f"revision {i + 1}{by if 'critique' not in entry else ''}"
            found.append((scored(name, score("rounds", i)) + marks(entry, "revision"), entry["revision"], current))
            current = entry["revision"]
    for side in ("chosen", "rejected"):
        if side in record:
            name = f"{side}, p {record['p_chosen']:.3f}" if side == "chosen" and "p_chosen" in record else side
            found.append((scored(name, scores.get(side)), as_messages(record[side])[-1]["content"], None))
    return found + label_parts(record["label"]) if isinstance(record.get("label"), dict) else found


def label_parts(label: Label) -> list[Part]:
    """What `cai label` found: the reasoning, and the probability that the first answer is the better one."""
    found: list[Part] = []
    for entry in label.get("reasoning") or []:
        heading = f"reasoning, by {entry['principle']}, in order {entry['order']}, p of the first {entry['p_first']:.3f}"
        found.append((heading, entry["text"], None))
    if orders := label.get("orders"):
        each = ", ".join(f"{order} {p:.3f}" for order, p in orders.items())
        by = ", ".join(label.get("principles", []))
        found.append((f"label, by {by}", f"p of the first answer {label['p_first']:.3f} ({each})", None))
    return found


def marks(entry: Round, kind: str) -> str:
    """The flags of a round's "critique" or "revision" (`kind`), and what was stripped from it, for its heading."""
    named = [flag.removeprefix(f"{kind}-") for flag in entry.get("flags", []) if flag.startswith(f"{kind}-")]
    meta = (entry.get("meta") or {}).get(kind)
    stripped = (meta.get("stripped") or []) if meta else []
    named += [f"{name} stripped" for name in stripped]
    return f" [{', '.join(named)}]" if named else ""


def wanted(id: str | None, grep: str | None, principle: str | None, flagged: bool) -> Callable[[Record], bool]:
    """A test whether a record matches the flags. InputError for a bad pattern."""
    try:
        pattern = re.compile(grep or "", re.I)
    except re.error as problem:
        raise InputError(f"--grep: not a regular expression ({problem})") from None

    def test(record: Record) -> bool:
        rounds = record.get("rounds") or []
        return (
            (id is None or record["id"] == id)
            and (principle is None or any(entry.get("principle") == principle for entry in rounds))
            and (not flagged or any(entry.get("flags") for entry in rounds))
            and (grep is None or any(pattern.search(text) for _, text, _ in parts(record)))
        )

    return test


@command("Print records for a person to read.", "cai show revisions.jsonl --random 5")
def app(
    input: Input = "-",
    limit: Limit = None,
    id: Annotated[str | None, Option("--id", help="Only the record with this id.")] = None,
    grep: Annotated[
        str | None, Option("--grep", metavar="REGEX", help="Only records that have a match in one of their texts.")
    ] = None,
    principle: Annotated[
        str | None, Option("--principle", metavar="ID", help="Only records that have a round by this principle.")
    ] = None,
    flagged: Annotated[bool, Option("--flagged", help="Only records that have a flag in one of their rounds.")] = False,
    sample: Annotated[
        int | None, Option("--random", min=1, metavar="N", help="Only N of these records, drawn at random.")
    ] = None,
    seed: Annotated[int, Option("--seed", help="Seed of --random.")] = 0,
) -> None:
    """Show records."""
    require_input(input)
    console = Console(highlight=False)
    test = wanted(id, grep, principle, flagged)
    found: Iterable[Record] = (record for record in read_with_ids(input, check=shape_error) if test(record))
    if sample:
        found = reservoir(found, sample, random.Random(seed))
    shown = 0
    for record in found:
        print_record(console, record)
        shown += 1
        if limit is not None and shown >= limit:
            break
    if id is not None and not shown:
        raise InputError(f"{input}: no record has the id '{id}'")
    if not shown:
        streams.warn("show: no record matches" if grep or principle or flagged else "show: the input is empty")


def reservoir(records: Iterable[Record], size: int, chance: random.Random) -> list[Record]:
    """`size` of the records, each with equal probability. Never holds more than that in memory."""
    kept: list[Record] = []
    for number, record in enumerate(records):
        if number < size:
            kept.append(record)
        elif (place := chance.randrange(number + 1)) < size:
            kept[place] = record
    return kept


def print_record(console: Console, record: Record) -> None:
    """Print one record under a line with its id."""
    title = " ".join(str(record[key]) for key in ("id", "kind") if key in record)
    console.rule(Text(visible(title), style="bold"), align="left")
    for heading, text, before in parts(record):
        console.print(Text(visible(heading), style="bold cyan"))
        body = Text(visible(text)) if before is None else word_diff(before, text)
        console.print(body, soft_wrap=not console.is_terminal)
        console.print()
