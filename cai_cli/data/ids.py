"""The ids of records: given to a record that has none, and checked for duplicates."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import islice

from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.data.records import digest, take_in


class Numbers:
    """Maps a number of 64 bits, well mixed, to one from 1 to 2**32 - 1. An entry takes 18 to 36 bytes; in a dict over 100."""

    def __init__(self) -> None:
        self.used = 0
        self.keys, self.values = array("Q", [0]) * 1024, array("I", [0]) * 1024  # a value of 0: the place is free

    def _place(self, key: int) -> int:
        last = len(self.keys) - 1
        place = key & last
        while self.values[place] and self.keys[place] != key:
            place = (place + 1) & last
        return place

    def get(self, key: int) -> int:
        """The number of a key; 0 if it has none."""
        return self.values[self._place(key)]

    def set(self, key: int, value: int) -> None:
        """Set the number of a key."""
        place = self._place(key)
        self.used += not self.values[place]
        self.keys[place], self.values[place] = key, value
        if 3 * self.used > 2 * len(self.keys):
            entries = zip(self.keys, self.values, strict=True)
            size = 2 * len(self.keys)
            self.used, self.keys, self.values = 0, array("Q", [0]) * size, array("I", [0]) * size
            for key, value in entries:
                if value:
                    self.set(key, value)


class Ids:
    """Gives ids to records that have none, and finds duplicate ids.

    A missing id is derived from the prompt's content, and a count is added if the prompt was seen before. So it is the same in
    every run. Memory: one 8-byte digest and one line number per record, and as much again for one without an id.
    """

    def __init__(self) -> None:
        self._lines, self._counts = Numbers(), Numbers()

    def error(self, record: Record, number: int) -> str | None:
        """What is wrong with a record's id, or None. Sets the id in place if it is missing, or a number."""
        identity = record.get("id")
        if identity is None:
            name = digest(record.get("prompt", record.get("chosen", record.get("messages"))), 6)
            count = self._counts.get(int(name, 16)) + 1
            self._counts.set(int(name, 16), count)
            identity = f"p-{name}" if count == 1 else f"p-{name}-{count}"
        elif isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        elif not isinstance(identity, str) or not identity:
            return "'id' must be a non-empty string"
        record["id"] = identity
        key = int(digest(identity), 16)
        if first := self._lines.get(key):
            return f"duplicate id '{identity}'; first seen on line {first}"
        self._lines.set(key, number)
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
