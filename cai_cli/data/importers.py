"""Readers of other people's data: each entry becomes a record, or an error that says what is wrong with it.

A reader yields one `Item` per entry. An entry that cannot be used has an `error`. An entry that is usable but odd (an
empty answer, a repeated role) has a `note`. A reader raises InputError if the whole file is unusable.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_cli.data import jsonl, transcripts
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Messages, assistant, preference_error, prompt_error, sides
from cai_cli.errors import InputError

ROLES_NOTE = "two turns in a row have the same role; they stay apart in transcripts, and are merged for chat templates"
_RED_TEAM_FIELDS = ("task_description", "rating", "tags", "min_harmlessness_score_transcript")
"""Fields of a red-team attempt that its record keeps."""


@dataclass(frozen=True)
class Item:
    """One entry of a file: a record or an error."""

    number: int
    """The number of the line or row, or the place in the JSON array, from 1."""
    record: Record | None = None
    """None if there is an `error`."""
    error: str = ""
    """Why the entry cannot be used."""
    note: str = ""
    """What is odd about an entry that can be used."""


def _item(number: int, record: Record, note: str = "") -> Item:
    """An item whose record has a `prompt`, after checking that prompt."""
    error = prompt_error(record)
    return Item(number, error=error) if error else Item(number, record, note=note)


def _records(path: str) -> Iterator[tuple[int, Record]]:
    """(line number, record) for each line of a JSONL file. InputError at the first bad line."""
    return _valid(path, jsonl.read_lines(path))


def _valid(path: str, lines: Iterator[jsonl.Line]) -> Iterator[tuple[int, Record]]:
    for line in lines:
        if line.record is None:
            raise jsonl.bad_line(path, line.number, line.error or "")
        yield line.number, line.record


def hh_rlhf(path: str) -> Iterator[Item]:
    """Prompts of hh-rlhf's pairs of transcripts, `chosen` and `rejected`: all turns before the last assistant turn."""
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
    """hh-rlhf's pairs as preferences. A pair with an empty answer is an error, because it is useless for training."""
    for number, record in _records(path):
        try:
            prompt = transcripts.pair_prompt(record)
        except ValueError as problem:
            yield Item(number, error=str(problem))
            continue
        answers = [transcripts.messages(record[side])[-1]["content"] for side in ("chosen", "rejected")]
        yield _preference(number, prompt, answers, p_chosen, ROLES_NOTE if transcripts.repeats_role(prompt) else "", {})


def preferences(path: str, p_chosen: float) -> Iterator[Item]:
    """Preference rows in TRL's forms: strings or messages, with a separate `prompt` or with the prompt in both sides.

    A row's own `p_chosen` and its other fields are kept.
    """
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
    """An item with a preference record in cai's form, whatever the form of the input. `kept` overrides `p_chosen`."""
    if empty := [side for side, text in zip(("chosen", "rejected"), answers, strict=True) if not text.strip()]:
        return Item(number, error=f"the answer of '{empty[0]}' is empty")
    if answers[0] == answers[1]:
        return Item(number, error="both answers are the same")
    chosen, rejected = ([assistant(text)] for text in answers)
    record = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "p_chosen": p_chosen, **kept}
    return _item(number, record, note)


def red_team_attempts(path: str) -> Iterator[Item]:
    """hh-rlhf's red-team attempts: a JSON array or JSONL of objects with a `transcript`. Keeps `_RED_TEAM_FIELDS`."""
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
    """(number, value) for each entry if the file is one JSON array, else for each line."""
    with jsonl.opened(path) as stream:
        data = stream.read().removeprefix(codecs.BOM_UTF8)
    if data.lstrip().startswith(b"["):
        try:
            yield from enumerate(jsonl.loads(data), 1)
        except ValueError as problem:
            raise InputError(f"{path}: not valid JSON: {problem}") from None
        return
    yield from _valid(path, jsonl.parse(io.BytesIO(data)))


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """(number, text) for each line of a UTF-8 file, with its line ending, without a byte order mark."""
    with jsonl.opened(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as problem:
                raise jsonl.bad_line(path, number, f"not UTF-8 ({problem.reason})") from None


def text(path: str) -> Iterator[Item]:
    """One prompt per line. Blank lines are ignored."""
    for number, line in _lines(path):
        if line.strip():
            yield _item(number, {"prompt": line.strip()})


def table(path: str, column: str, delimiter: str) -> Iterator[Item]:
    """CSV or TSV with a header: `column` holds the prompt, `id` (optional) the id.

    TSV has no quoting, so quotation marks are text there. InputError if the column is missing or the CSV is malformed.
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
                f"{path}: no column '{column}' (columns: {', '.join(reader.fieldnames or []) or 'none'}); name one with --column"
            )
        for row in reader:
            if row.get(column) is None or None in row:
                many = "more fields than the header has; put quotation marks around a field that contains a comma"
                yield Item(reader.line_num, error=many if None in row else f"no '{column}' in this row")
                continue
            identity = {"id": row["id"]} if row.get("id") and column != "id" else {}
            yield _item(reader.line_num, {**identity, "prompt": row[column]})
    except csv.Error as problem:
        raise jsonl.bad_line(path, reader.line_num, f"not valid CSV: {problem}") from None


def dataset(name: str, column: str, split: str, config: str | None) -> Iterator[Item]:
    """A dataset of the `datasets` library: a hub name, a saved directory or a data file.

    InputError if it cannot be loaded or has no such column.
    """
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
    except Exception as problem:  # the library, its readers and the hub client each raise exceptions of their own
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise InputError(
            f"{name}: could not load the dataset ({reason}); give a hub name, a saved directory or a data file"
        ) from None
    if column not in found.column_names:
        raise InputError(f"{name}: no column '{column}' (columns: {', '.join(found.column_names)}); name one with --column")
    for number, row in enumerate(found, 1):
        value: str | Messages | None = row[column]
        identity = {"id": str(row["id"])} if row.get("id") not in (None, "") and column != "id" else {}
        yield _item(number, {**identity, "prompt": value})
