"""Print records for a person to read.

    cai show revisions.jsonl --random 5
    cai show revisions.jsonl --flagged --principle honesty
    cai show preferences.jsonl --id red-007/0-1

Each round shows its principle, critique and revision. The principle's text is shown if the constitution is at hand: the
manifests beside the file and its inputs name it. The revision is shown as a difference to the answer before it: removed
words as [-removed-] and added words as {+added+}, unless the two have little in common. Texts are printed as they are,
except for control characters, which could move the cursor or change the terminal: they are spelled out.

Not in the paper.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from rich.console import Console
from rich.text import Text
from typer import Option

from cai_cli import streams
from cai_cli.commands._command import command, require_input
from cai_cli.commands._flags import Input, Limit
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record, as_object, item
from cai_cli.data.records import Label, Round, as_messages, label_of, shape_error, stripped
from cai_cli.errors import InputError
from cai_cli.method.constitution import Principle
from cai_cli.report.sources import principles_of

ALIKE = 0.5
"""Similarity (0 to 1) from which a revision is shown as a difference; below it the two texts share few words."""
Principles = Mapping[str, Principle]
"""The principles that a file's records were made by, by id; without those that are not known."""


class Part(NamedTuple):
    """One text of a record."""

    heading: str
    text: str
    before: str | None = None
    """The answer that the text revises; None if it is not a revision."""
    principle: str = ""
    """The principle by which it was made, with its id; empty if its text is not known."""


def word_diff(before: str, after: str) -> Text:
    """`after`, with the words it adds to `before` as {+added+}, and those it removes as [-removed-].

    Only `after`, unmarked, if the two have little in common.
    """
    old, new = (re.findall(r"\s+|\S+", streams.visible(text)) for text in (before, after))
    words = difflib.SequenceMatcher(None, before.split(), after.split(), autojunk=False)
    if words.ratio() < ALIKE:
        return Text(streams.visible(after))
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


def parts(record: Record, principles: Principles) -> list[Part]:
    """Every text of a record, in reading order."""
    turns = [*as_messages(record.get("prompt") or []), *record.get("messages", [])]
    completion = record.get("completion", [])
    turns += [{"role": "completion", "content": completion}] if isinstance(completion, str) else completion
    found: list[Part] = []
    for turn in turns:
        found += [*reasoned(turn.get("reasoning"), turn["role"]), Part(turn["role"], turn["content"])]
    if "response" not in record and ("messages" in record or "completion" in record):
        found[-1:-1] = reasoned(record.get("reasoning"), found[-1].heading)
    found += answer_parts(record) + round_parts(record, principles) + grade_parts(record)
    label = label_of(record)
    return found + label_parts(label, principles) if label else found


def reasoned(text: object, name: str, meta: object = None) -> list[Part]:
    """The reasoning before a text of this name, if there is any."""
    cut = " [cut]" if isinstance(meta, dict) and meta.get("reasoning") == "cut" else ""
    return [Part(f"{name}: reasoning{cut}", text)] if isinstance(text, str) and text else []


def scored(name: str, score: float | None) -> str:
    """A heading with the score of its text."""
    return name if score is None else f"{name} (score {score:.2f})"


def answer_parts(record: Record) -> list[Part]:
    """The answers, each once: `response`, `responses`, and those of `chosen` and `rejected` that are not among `responses`."""
    scores, why, made = record.get("scores") or {}, record.get("reasoning"), as_object(record.get("meta"))
    sides = {side: as_messages(record[side])[-1]["content"] for side in ("chosen", "rejected") if side in record}
    names = {side: f"{side}, p {record['p_chosen']:.3f}" if side == "chosen" and "p_chosen" in record else side for side in sides}
    found: list[Part] = []

    def add(name: str, text: str, score: float | None, reasoning: object, meta: object = None) -> None:
        cut = " [cut]" if isinstance(meta, dict) and meta.get("finish") == "length" else ""
        found.extend([*reasoned(reasoning, name, meta), Part(scored(name, score) + cut, text)])

    if "response" in record:
        add("response", record["response"], scores.get("response"), why, made.get("response"))
    for i, text in enumerate(record.get("responses", [])):
        name, score = f"response {i}", item(scores.get("responses"), i)
        if side := next((side for side in sides if sides[side] == text and i in compared(record)), None):
            del sides[side]
            name, score = f"{name}, {names[side]}", scores.get(side) if score is None else score
        add(name, text, score, item(why, i), item(made.get("responses"), i))
    for side, text in sides.items():
        add(names[side], text, scores.get(side), why.get(side) if isinstance(why, dict) else None)
    return found


def compared(record: Record) -> Iterable[int]:
    """The indices in `responses` of the answers that a preference compares; all if it does not say."""
    label = record.get("label")
    pair = label.get("pair") if isinstance(label, dict) else None
    return pair if isinstance(pair, list) else range(len(record["responses"]))


def round_parts(record: Record, principles: Principles) -> list[Part]:
    """The critiques and revisions, each under its principle."""
    found: list[Part] = []
    scores, current = record.get("scores") or {}, record.get("response")

    def asked(kind: str) -> str:
        return texts([entry.get("principle", "")], principles, kind)

    for i, entry in enumerate(record.get("rounds") or []):
        by = f", by {entry.get('principle', '?')}"
        why, meta = as_object(entry.get("reasoning")), as_object(entry.get("meta"))
        if "critique" in entry:
            name = f"critique {i + 1}"
            found += reasoned(why.get("critique"), name, meta.get("critique"))
            found.append(Part(f"{name}{by}{marks(entry, 'critique')}", entry["critique"], principle=asked("critique")))
        if "revision" in entry:
            name = f"revision {i + 1}"
            found += reasoned(why.get("revision"), name, meta.get("revision"))
            heading = scored(name + (by if "critique" not in entry else ""), item(scores.get("rounds"), i))
            found.append(Part(heading + marks(entry, "revision"), entry["revision"], current, asked("revision")))
            current = entry["revision"]
    return found


def grade_parts(record: Record) -> list[Part]:
    """What `cai grade` found: the classes' probabilities, a line per criterion and answer."""
    lines = []
    for criterion, found in (record.get("grades") or {}).items():
        for i, grade in enumerate(found if isinstance(found, list) else [found]):
            name = f"{criterion}, response {i}" if isinstance(found, list) else criterion
            lines.append(f"{name}: {', '.join(f'{kind} {p:.3f}' for kind, p in grade.items())}")
    return [Part("grades", "\n".join(lines))] if lines else []


def label_parts(label: Label, principles: Principles) -> list[Part]:
    """What `cai label` found: the reasoning, and the probability that the first answer is the better one."""
    found: list[Part] = []
    for entry in label.get("reasoning") or []:
        cut = " [cut]" if entry["meta"].get("finish") == "length" else ""
        where = f"by {entry['principle']}, in order {entry['order']}, p of the first {entry['p_first']:.3f}"
        found.append(Part(f"reasoning, {where}{cut}", entry["text"]))
    if orders := label.get("orders"):
        each = ", ".join(f"{order} {p:.3f}" for order, p in orders.items())
        ids = label.get("principles", [])
        cut = f" [{label['cut']} cut]" if label.get("cut") else ""
        shown = f"p of the first answer {label['p_first']:.3f} ({each})"
        found.append(Part(f"label, by {', '.join(ids)}{cut}", shown, principle=texts(ids, principles, "compare")))
    return found


def texts(ids: Iterable[str], principles: Principles, kind: str) -> str:
    """The texts of one kind (see `TEXTS`) of these principles, each after its id on a line of its own."""
    known = {i: getattr(principles[i], kind) for i in ids if i in principles}
    return "\n".join(f"{i}: {text}" for i, text in known.items() if text)


def marks(entry: Round, kind: str) -> str:
    """The flags of a round's "critique" or "revision" (`kind`), and what was stripped from it, for its heading."""
    named = [flag.removeprefix(f"{kind}-") for flag in entry.get("flags", []) if flag.startswith(f"{kind}-")]
    named += [f"{name} stripped" for name in stripped(entry, kind)]
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
            and (grep is None or any(pattern.search(part.text) for part in parts(record, {})))
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
    console = streams.Terminal(highlight=False)
    principles = principles_of(Path(input)) if input != "-" else {}
    test = wanted(id, grep, principle, flagged)
    found: Iterable[Record] = (record for record in read_with_ids(input, check=shape_error) if test(record))
    if sample:
        found = reservoir(found, sample, random.Random(seed))
    shown = 0
    for record in found:
        print_record(console, record, principles)
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


def print_record(console: Console, record: Record, principles: Principles) -> None:
    """Print one record under a line with its id."""
    title = " ".join(str(record[key]) for key in ("id", "kind") if key in record)
    console.rule(Text(streams.visible(title), style="bold"), align="left")
    for part in parts(record, principles):
        console.print(Text(streams.visible(part.heading), style="bold cyan"))
        if part.principle:
            console.print(Text(streams.visible(part.principle), style="italic dim"), soft_wrap=not console.is_terminal)
        body = Text(streams.visible(part.text)) if part.before is None else word_diff(part.before, part.text)
        body.stylize("dim" if "reasoning" in part.heading else "")
        console.print(body, soft_wrap=not console.is_terminal)
        console.print()
