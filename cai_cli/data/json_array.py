"""A file that is one JSON array, read item by item: the memory holds one item, whatever the size of the file."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from json import JSONDecodeError
from typing import IO, Any

from cai_cli.data import jsonl

_CHUNK = 2**20
"""Bytes to read at a time."""


class _Text:
    """The part of a file that is in memory, and the position in it."""

    def __init__(self, path: str, stream: IO[bytes]) -> None:
        self.path, self.stream = path, stream
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.place, self.ended = "", 0, False
        self.line = 1
        """The number of the line in which `text` begins."""

    def wrong(self, what: str, place: int) -> Exception:
        """The error for what stands at a place."""
        return jsonl.bad_line(self.path, self.line + self.text.count("\n", 0, place), f"not valid JSON: {what}", "; repair it")

    def more(self) -> None:
        """Read on: as much as is in memory already, so that an item that needs several reads is decoded only a few times."""
        data = self.stream.read(max(_CHUNK, len(self.text) - self.place))
        self.line += self.text.count("\n", 0, self.place)
        self.text, self.place, self.ended = self.text[self.place :], 0, not data
        try:
            self.text += self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as problem:
            self.text += data[: problem.start].decode(errors="replace")
            raise self.wrong(f"not UTF-8 ({problem.reason})", len(self.text)) from None

    def next(self) -> str:
        """The next character that is no white space; it stays. Empty at the end."""
        while True:
            found = jsonl.SPACE.match(self.text, self.place)
            self.place = found.end() if found else self.place
            if self.place < len(self.text) or self.ended:
                return self.text[self.place : self.place + 1]
            self.more()

    def value(self) -> Any:
        """The value at the position, which moves behind it."""
        self.next()
        while True:
            long = len(self.text) - self.place > jsonl.MAX_LINE
            try:
                value, end = jsonl.decode(self.text, self.place)
            except JSONDecodeError as problem:  # perhaps only a part of the value is in memory
                if self.ended or isinstance(problem, jsonl.Refused):
                    raise self.wrong(problem.msg, problem.pos) from None
                if long:
                    raise self.wrong(f"an entry is longer than {jsonl.MAX_LINE // 2**20} MiB", self.place) from None
            else:
                if end < len(self.text) or self.ended:  # at the end of the text, more digits of a number may follow
                    self.place = end
                    return value
            self.more()


def items(path: str, stream: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """(number, value) for each item of the array in a stream, from 1. InputError, with the line, if it is not strict JSON."""
    text, number = _Text(path, stream), 0
    text.next()
    text.place += 1  # the opening bracket, which the caller has seen
    if text.next() == "]":
        text.place += 1
    else:
        while True:
            number += 1
            yield number, text.value()
            if (mark := text.next()) not in (",", "]") or not mark:
                raise text.wrong("expected , or ] after an entry", text.place)
            text.place += 1
            if mark == "]":
                break
    if text.next():
        raise text.wrong("text after the end of the array", text.place)
