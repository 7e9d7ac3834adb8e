"""Other people's data, entry by entry: the prompt of each, or what is wrong with it.

A reader yields `Item`s. An entry that can't be used is an item with an `error`; one that can, but is
odd (an empty answer, a repeated role), has a `note`. What makes the whole file useless is an InputError.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_cli import jsonl, transcripts
from cai_cli.errors import InputError
from cai_cli.jsonl import Record
from cai_cli.records import Messages, preference_error, prompt_error, sides

ROLES_NOTE = "a role comes twice in a row: kept as it is in transcripts, merged for chat templates"
_RED_TEAM_FIELDS = ("task_description", "rating", "tags", "min_harmlessness_score_transcript")


@dataclass(frozen=True)
class Item:
    """One entry: its number (line or row, from 1), and its record, or the error that it has none."""

    number: int
    record: Record | None = None
    error: str = ""
    note: str = ""


def _item(number: int, record: Record, note: str = "") -> Item:
    """An item whose record holds a `prompt`, checked."""
    error = prompt_error(record)
    return Item(number, error=error) if error else Item(number, record, note=note)


def _records(path: str) -> Iterator[tuple[int, Record]]:
    """(number, record) of the lines of a JSONL file."""
    return _sound(path, jsonl.read_lines(path))


def _sound(path: str, lines: Iterator[jsonl.Line]) -> Iterator[tuple[int, Record]]:
    for line in lines:
        if line.record is None:
            raise jsonl.bad_line(path, line.number, line.error or "")
        yield line.number, line.record


def hh_rlhf(path: str) -> Iterator[Item]:
    """Pairs of transcripts `chosen` and `rejected`: the prompt is all before the last assistant's turn."""
    for number, record in _records(path):
        try:
            prompt = transcripts.pair_prompt(record)
        except ValueError as problem:
            yield Item(number, error=str(problem))
            continue
        notes = [ROLES_NOTE] if transcripts.repeats_role(prompt) else []
        for side in ("chosen", "rejected"):
            if not transcripts.messages(record[side])[-1]["content"]:
                notes.append(f"the answer of '{side}' is empty")
        yield _item(number, {"prompt": prompt}, "; ".join(notes))


def hh_rlhf_preferences(path: str, p_chosen: float) -> Iterator[Item]:
    """The same pairs as preferences; one whose answer is empty is an error, since nothing can be learnt from it."""
    for number, record in _records(path):
        try:
            prompt = transcripts.pair_prompt(record)
        except ValueError as problem:
            yield Item(number, error=str(problem))
            continue
        answers = [transcripts.messages(record[side])[-1]["content"] for side in ("chosen", "rejected")]
        yield _preference(number, prompt, answers, p_chosen, ROLES_NOTE if transcripts.repeats_role(prompt) else "", {})


def preferences(path: str, p_chosen: float) -> Iterator[Item]:
    """TRL's preference rows (strings or messages, `prompt` apart or within both sides); a `p_chosen` of their own stays."""
    for number, record in _records(path):
        try:
            if error := preference_error(record):
                raise ValueError(error)
            prompt, *answers = sides(record)
        except ValueError as problem:
            yield Item(number, error=str(problem))
            continue
        kept = {key: value for key, value in record.items() if key not in ("prompt", "chosen", "rejected")}
        yield _preference(number, prompt, answers, p_chosen, "", kept)


def _preference(number: int, prompt: Messages, answers: list[str], p_chosen: float, note: str, kept: Record) -> Item:
    """An item that is a preference record: our form, whatever the form it came in."""
    if empty := [side for side, text in zip(("chosen", "rejected"), answers, strict=True) if not text.strip()]:
        return Item(number, error=f"the answer of '{empty[0]}' is empty")
    if answers[0] == answers[1]:
        return Item(number, error="both answers are the same")
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in answers)
    record = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "p_chosen": p_chosen, **kept}
    return _item(number, record, note)


def red_team_attempts(path: str) -> Iterator[Item]:
    """hh-rlhf's red-team attempts, a JSON array or JSONL of objects with a `transcript`; its rating and task are kept."""
    for number, entry in _array_or_lines(path):
        if not isinstance(entry, dict) or not isinstance(entry.get("transcript"), str):
            yield Item(number, error="no 'transcript' text")
            continue
        try:
            prompt = transcripts.transcript_prompt(entry["transcript"])
        except ValueError as problem:
            yield Item(number, error=str(problem))
            continue
        kept = {key: entry[key] for key in _RED_TEAM_FIELDS if entry.get(key) is not None}
        yield _item(number, {"prompt": prompt, **kept}, ROLES_NOTE if transcripts.repeats_role(prompt) else "")


def _array_or_lines(path: str) -> Iterator[tuple[int, Any]]:
    """(number, value) of the entries of a file that is one JSON array, or of the lines of one that isn't."""
    with jsonl.opened(path) as stream:
        data = stream.read().removeprefix(codecs.BOM_UTF8)
    if data.lstrip().startswith(b"["):
        try:
            yield from enumerate(jsonl.loads(data), 1)
        except ValueError as problem:
            raise InputError(f"{path}: not valid JSON: {problem}") from None
        return
    yield from _sound(path, jsonl.parse(io.BytesIO(data)))


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a UTF-8 file, ends kept, a byte order mark dropped."""
    with jsonl.opened(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as problem:
                raise jsonl.bad_line(path, number, f"not UTF-8 ({problem.reason})") from None


def text(path: str) -> Iterator[Item]:
    """A prompt a line; blank lines are passed over."""
    for number, line in _lines(path):
        if line.strip():
            yield _item(number, {"prompt": line.strip()})


def table(path: str, column: str, delimiter: str) -> Iterator[Item]:
    """CSV (or TSV) with a header: the prompt stands in `column`, an id in `id` if there is one.

    In TSV quotation marks are text, as its definition has it.
    """
    csv.field_size_limit(jsonl.MAX_LINE)
    lines = (line for _, line in _lines(path))
    if delimiter == "\t":
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        if column not in (reader.fieldnames or []):
            raise InputError(
                f"{path}: no column '{column}'; there are {', '.join(reader.fieldnames or []) or 'none'}: give --column"
            )
        for row in reader:
            if row.get(column) is None or None in row:
                many = "more fields than the header has: is a comma meant to be quoted?"
                yield Item(reader.line_num, error=many if None in row else f"no '{column}' in this row")
                continue
            identity = {"id": row["id"]} if row.get("id") and column != "id" else {}
            yield _item(reader.line_num, {**identity, "prompt": row[column]})
    except csv.Error as problem:
        raise jsonl.bad_line(path, reader.line_num, f"not valid CSV: {problem}") from None


def dataset(name: str, column: str, split: str, config: str | None) -> Iterator[Item]:
    """A dataset of the `datasets` library, by hub name, saved directory or data file."""
    import datasets

    path = Path(name)
    try:
        if (path / "state.json").exists():
            found: Any = datasets.load_from_disk(name)
        elif (path / "dataset_dict.json").exists():
            found = datasets.load_from_disk(name)[split]
        elif path.is_file():
            kind = {".parquet": "parquet", ".arrow": "arrow"}.get(path.suffix, "json")
            found = datasets.load_dataset(kind, data_files=name, split="train")
        else:
            found = datasets.load_dataset(name, config, split=split)
    except Exception as problem:  # the library raises kinds of its own, of its readers and of the hub
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise InputError(f"{name}: no such dataset to be had ({reason})") from None
    if column not in found.column_names:
        raise InputError(f"{name}: no column '{column}'; there are {', '.join(found.column_names)}: give --column")
    for number, row in enumerate(found, 1):
        value: str | Messages | None = row[column]
        identity = {"id": str(row["id"])} if row.get("id") not in (None, "") and column != "id" else {}
        yield _item(number, {**identity, "prompt": value})
