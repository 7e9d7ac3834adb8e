"""Readers of other people's data: each entry becomes a record, or an error that says what is wrong with it.

A reader yields one `Item` per entry. An entry that cannot be used has an `error`. An entry that is usable but odd (an
empty answer, a repeated role) has a `note`. A reader raises InputError if the whole file is unusable.
"""

from __future__ import annotations

import codecs
import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import IO, Any

from cai_cli import streams
from cai_cli.data import json_array, jsonl, transcripts
from cai_cli.data.jsonl import Record
from cai_cli.data.preferences import sides
from cai_cli.data.records import Messages, assistant, has_tools, messages_error, preference_error, prompt_error, take_in
from cai_cli.errors import InputError

ROLES_NOTE = "two turns in a row have the same role; they stay apart in transcripts, and are merged for chat templates"
_FIELDS = {"prompt", "response", "responses", "reasoning", "rounds", "scores", "meta", "chosen", "rejected", "p_chosen",
           "messages", "conversations", "completion", "turns", "previous", "source_id", "weight"}  # fmt: skip
"""Fields of our records. A column of this name means something else, and is kept as `original_NAME`."""
_OF_PREFERENCES = ("p_chosen", "weight", "label", "source_id", "reasoning")
"""Fields of a preference that an import of preferences keeps under their own names."""
MAX_SEPARATORS = 1_000_000
"""Most separators in a line of CSV or TSV, so that a line of commas cannot fill the memory."""
_SHAREGPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "function_call": "tool", "observation": "tool"}
"""From ShareGPT's names of speakers to roles."""


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


def kept(row: Record, *taken: str) -> Record:
    """A row's columns except `taken` and those without a value, so that the record loses nothing. See `_FIELDS`."""
    return {
        f"original_{name}" if name in _FIELDS else name: value
        for name, value in row.items()
        if name not in taken and value is not None
    }


def identity(row: Record, column: str = "id") -> Record:
    """The row's own id as a record's field; nothing if it has none."""
    return {"id": str(row[column])} if row.get(column) not in (None, "") else {}


def item(number: int, record: Record, note: str = "") -> Item:
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
        yield item(number, {"prompt": prompt, **kept(record, "chosen", "rejected")}, "; ".join(notes))


def hh_rlhf_preferences(path: str, p_chosen: float) -> Iterator[Item]:
    """hh-rlhf's pairs as preferences. A pair with an empty answer is an error, because it is useless for training."""
    for number, record in _records(path):
        try:
            prompt = transcripts.pair_prompt(record)
        except ValueError as problem:
            yield Item(number, error=str(problem))
            continue
        answers = [transcripts.messages(record[side])[-1]["content"] for side in ("chosen", "rejected")]
        note = ROLES_NOTE if transcripts.repeats_role(prompt) else ""
        chosen, rejected = ([assistant(text)] for text in answers)
        yield preference(number, prompt, chosen, rejected, note, {"p_chosen": p_chosen, **kept(record, "chosen", "rejected")})


def preferences(path: str, p_chosen: float) -> Iterator[Item]:
    """Preference rows in any form of `data/preferences.py`. A row's own `p_chosen` and its other fields are kept."""
    for number, row in entries(path):
        yield preference_row(number, row, p_chosen) if isinstance(row, dict) else Item(number, error="not an object")


def preference_row(number: int, row: Record, p_chosen: float) -> Item:
    """An item with the preference of a row."""
    record = {name: value for name, value in row.items() if value is not None}  # parquet has null for an absent prompt
    take_in(record)
    try:
        if error := preference_error(record):
            raise ValueError(error)
        found = sides(record)
    except ValueError as problem:
        return Item(number, error=str(problem))
    own = {name: record[name] for name in _OF_PREFERENCES if record.get(name) is not None}
    others = kept(record, "prompt", "chosen", "rejected", *_OF_PREFERENCES)
    return preference(number, *found, "", {"p_chosen": p_chosen, **others, **own})


def preference(number: int, prompt: Messages, chosen: Messages, rejected: Messages, note: str, others: Record) -> Item:
    """An item with a preference record in cai's form. `others`: its further fields."""
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side[-1]["content"].strip():
            return Item(number, error=f"the answer of '{name}' is empty")
    if chosen == rejected:
        return Item(number, error="both answers are the same")
    return item(number, {"prompt": prompt, "chosen": chosen, "rejected": rejected, **others}, note)


def messages(path: str, answers: bool) -> Iterator[Item]:
    """Conversations: `messages` (OpenAI, TRL) or `conversations` (ShareGPT). With `answers` the last answer is a `response`.

    Without, a record's prompt is everything before the last assistant's message.
    """
    for number, row in entries(path):
        record = dict(row) if isinstance(row, dict) else {}
        if isinstance(record.get("conversations"), list):
            record["messages"] = [_spoken(turn) for turn in record.pop("conversations")]
        if has_tools(record):
            yield Item(number, error="it has tool calls or a tool's turn, which no command of cai reads; train on them with TRL")
            continue
        take_in(record)
        turns = record.get("messages")
        if error := messages_error(turns, "messages") if turns is not None else "no 'messages' or 'conversations'":
            yield Item(number, error=error)
            continue
        assert isinstance(turns, list)
        prompt, others = turns, kept(record, "messages", "id", "reasoning")
        if turns[-1]["role"] == "assistant":
            prompt = turns[:-1]
            if answers:
                reason = {"reasoning": record["reasoning"]} if record.get("reasoning") else {}
                others = {"response": turns[-1]["content"], **reason, **others}
        elif answers:
            yield Item(number, error="its last message is not the assistant's, so there is no answer")
            continue
        yield item(number, {**identity(record), "prompt": prompt, **others})


def _spoken(turn: Any) -> Any:
    """A turn of ShareGPT as a message; another value as it is."""
    if not isinstance(turn, dict) or "from" not in turn:
        return turn
    return {"role": _SHAREGPT.get(str(turn["from"]).lower(), turn["from"]), "content": turn.get("value")}


def red_team_attempts(path: str, answers: bool = False) -> Iterator[Item]:
    """hh-rlhf's red-team attempts: a JSON array or JSONL of objects with a `transcript`.

    With `answers` the transcript's last answer is kept as `response`, so that its rating is of the whole conversation.
    """
    for number, entry in array_or_lines(path):
        if not isinstance(entry, dict) or not isinstance(entry.get("transcript"), str):
            yield Item(number, error="no 'transcript' text")
            continue
        try:
            prompt = transcripts.transcript_prompt(entry["transcript"])
        except ValueError as problem:
            yield Item(number, error=str(problem))
            continue
        answer = {"response": transcripts.messages(entry["transcript"])[-1]["content"]} if answers else {}
        note = ROLES_NOTE if transcripts.repeats_role(prompt) else ""
        yield item(number, {"prompt": prompt, **answer, **kept(entry, "transcript")}, note)


def entries(path: str) -> Iterator[tuple[int, Any]]:
    """(number, value) for each entry: of a parquet file (by its name), of a file that is one JSON array, or of JSONL."""
    if not path.endswith(".parquet"):
        yield from array_or_lines(path)
    elif not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    else:
        yield from dataset_rows(load_dataset(path))


def array_or_lines(path: str) -> Iterator[tuple[int, Any]]:
    """(number, value) for each entry if the file is one JSON array, else for each line."""
    with jsonl.opened(path) as stream:
        yield from json_entries(path, stream)


def json_entries(path: str, stream: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """`array_or_lines` of an open file."""
    if starts(stream, b"["):
        yield from json_array.items(path, stream)
    else:
        if starts(stream, codecs.BOM_UTF8):
            stream.read(len(codecs.BOM_UTF8))
        yield from _valid(path, jsonl.parse(stream))


def starts(stream: IO[bytes], *marks: bytes) -> bool:
    """Whether an open file begins with one of `marks`, after a byte order mark and white space. Nothing is read."""
    head: bytes = stream.peek(1)  # type: ignore[attr-defined]  # every stream of `jsonl.opened` has it
    return head.startswith(marks) or head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(marks)


def _lines(path: str, stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    """(number, text) for each line of a UTF-8 file, with its line ending, without a byte order mark."""
    for number, line in enumerate(jsonl.bounded(stream), 1):
        if len(line) > jsonl.MAX_LINE:
            raise jsonl.bad_line(path, number, jsonl.TOO_LONG.format(jsonl.MAX_LINE // 2**20))
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as problem:
            raise jsonl.bad_line(path, number, f"not UTF-8 ({problem.reason})") from None


def text(path: str) -> Iterator[Item]:
    """One prompt per line. Blank lines are ignored."""
    with jsonl.opened(path) as stream:
        for number, line in _lines(path, stream):
            if line.strip():
                yield item(number, {"prompt": line.strip()})


def table(path: str, column: str, delimiter: str) -> Iterator[Item]:
    """CSV or TSV with a header: `column` holds the prompt, `id` (optional) the id; the other columns are kept.

    InputError if the column is missing or the CSV is malformed.
    """
    with jsonl.opened(path) as stream:
        for number, row in table_rows(path, stream, delimiter, column):
            yield row if isinstance(row, Item) else prompt_row(number, row, column)


def prompt_row(number: int, row: Record, column: str) -> Item:
    """An item with a prompt from one column of a row; the others are kept."""
    own = identity(row) if column != "id" else {}
    return item(number, {**own, "prompt": row.get(column), **kept(row, column, "id")})


def table_rows(path: str, stream: IO[bytes], delimiter: str, *columns: str) -> Iterator[tuple[int, Record | Item]]:
    """(number, row) for each row of a CSV or TSV with a header. A malformed row is an Item with an error.

    TSV has no quoting, so quotation marks are text there. InputError if one of `columns` is missing or the CSV is malformed.
    """
    csv.field_size_limit(jsonl.MAX_LINE)
    taken = 0
    """Characters of the row that is being read: with quotation marks it may have many lines."""

    def feed() -> Iterator[str]:
        nonlocal taken
        for number, line in _lines(path, stream):
            taken += len(line)
            if taken > jsonl.MAX_LINE:
                raise jsonl.bad_line(path, number, f"the row is longer than {jsonl.MAX_LINE // 2**20} MiB")
            if line.count(delimiter) > MAX_SEPARATORS:
                raise jsonl.bad_line(path, number, f"more than {MAX_SEPARATORS:,} separators in the line")
            yield line

    lines = feed()
    if delimiter == "\t":
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or [])
        if missing := [column for column in columns if column not in names]:
            raise InputError(f"{path}: no column '{missing[0]}' (columns: {', '.join(names) or 'none'}); name one with --column")
        for row in reader:
            number, taken = reader.line_num, 0
            if None in row:
                many = "more fields than the header has; put quotation marks around a field that contains a comma"
                yield number, Item(number, error=many)
            elif absent := [column for column in columns if row.get(column) is None]:
                yield number, Item(number, error=f"no '{absent[0]}' in this row")
            else:
                yield number, dict(row)
    except csv.Error as problem:
        raise jsonl.bad_line(path, max(1, reader.line_num), f"not valid CSV: {problem}") from None


def dataset(name: str, column: str, split: str, config: str | None) -> Iterator[Item]:
    """A dataset of the `datasets` library: a hub name, a saved directory or a data file. Its other columns are kept.

    InputError if it cannot be loaded or has no such column.
    """
    found = load_dataset(name, split, config)
    if column not in found.column_names:
        raise InputError(f"{name}: no column '{column}' (columns: {', '.join(found.column_names)}); name one with --column")
    for number, row in dataset_rows(found):
        yield prompt_row(number, row, column)


def dataset_rows(found: Any) -> Iterator[tuple[int, Record]]:
    """(number, row) for each row of a dataset. Times become text; what JSON cannot hold (bytes) is left out, with a warning."""
    lost: set[str] = set()
    for number, row in enumerate(found, 1):
        good: Record = {}
        for name, value in row.items():
            if isinstance(value, float) and math.isnan(value):  # pandas writes NaN for a missing number
                continue
            plain = value.isoformat() if isinstance(value, date | time) else value
            try:
                jsonl.dumps(plain)
                good[name] = plain
            except (TypeError, ValueError):
                if name not in lost:
                    streams.warn(f"import: column '{name}' is left out where JSON cannot hold it ({type(value).__name__})")
                lost.add(name)
        yield number, good


def load_dataset(name: str, split: str = "train", config: str | None = None) -> Any:
    """The dataset of a hub name, a saved directory or a data file. InputError if it cannot be loaded."""
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
    return found
