"""The ids of records: given to a record that has none, and checked for duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.data.records import digest, take_in


class Ids:
    """Gives ids to records that have none, and finds duplicate ids.

    A missing id is derived from the prompt's content, and a count is added if the prompt was seen before. So it is the same in
    every run. Memory: one 8-byte digest and one line number per record.
    """

    def __init__(self) -> None:
        self._lines: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    def error(self, record: Record, number: int) -> str | None:
        """What is wrong with a record's id, or None. Sets the id in place if it is missing, or a number."""
        identity = record.get("id")
        if identity is None:
            name = digest(record.get("prompt", record.get("chosen", record.get("messages"))), 6)
            count = self._counts[int(name, 16)] = self._counts.get(int(name, 16), 0) + 1
            identity = f"p-{name}" if count == 1 else f"p-{name}-{count}"
        elif isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        elif not isinstance(identity, str) or not identity:
            return "'id' must be a non-empty string"
        record["id"] = identity
        key = int(digest(identity), 16)
        if key in self._lines:
            return f"duplicate id '{identity}'; first seen on line {self._lines[key]}"
        self._lines[key] = number
        return None


def read_with_ids(
    path: str, limit: int | None = None, check: Callable[[Record], str | None] = lambda record: None
) -> Iterator[Record]:
    """The first `limit` records of an input, each checked and with an id. InputError at the first bad line."""
    ids = Ids()
    for line in islice(jsonl.read_lines(path), limit):
        if line.record is not None:
            take_in(line.record)
        error = line.error if line.record is None else check(line.record) or ids.error(line.record, line.number)
        if error or line.record is None:
            raise jsonl.bad_line(path, line.number, error or "")
        yield line.record
