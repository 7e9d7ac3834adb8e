"""Strict JSONL: read bytes line by line, name every bad line, encode each record as exactly one line.

Reading uses `jsonlines` with its own `loads`, because the standard decoder accepts NaN, Infinity and lone surrogates,
and raises RecursionError on deep nesting. Files that end in `.gz` are read through gzip; `-` is standard input.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import jsonlines

from cai_cli.errors import InputError

MAX_LINE = 64 * 2**20
"""Longest line accepted, in bytes."""
MAX_DEPTH = 64
"""Deepest nesting of objects and arrays accepted."""

Record = dict[str, Any]


def as_object(value: object) -> Record:
    """A value if it is an object, else an empty one: for fields such as `meta`, which other tools fill in other ways."""
    return value if isinstance(value, dict) else {}


def item(values: Any, i: int) -> Any:
    """An item of a list; None if there is no such item, or no list."""
    return values[i] if isinstance(values, list) and i < len(values) else None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _too_deep(text: str) -> bool:
    """Whether the nesting exceeds MAX_DEPTH. Brackets inside strings do not count."""
    # A quick bound: only a text with many brackets needs the scan below.
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth, in_string, escaped = 0, False, False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif char in "]}":
            depth -= 1
    return False


def loads(text: str | bytes) -> Any:
    """Decode one strict JSON value.

    Raises ValueError for bad JSON, NaN or Infinity, a lone surrogate, nesting deeper than
    `MAX_DEPTH`, or a number too long to convert.
    """
    text = text.decode() if isinstance(text, bytes) else text
    if _too_deep(text):
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    if "\\u" in text:  # only an escape can spell a lone surrogate; encoding the value finds it
        dumps(value)
    return value


def dumps(value: object) -> str:
    """Encode as one line of strict JSON. Non-ASCII text stays readable.

    Raises ValueError for NaN, Infinity and lone surrogates.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate (half of a character pair)") from None
    return text


def encode(record: object) -> bytes:
    """The bytes of a record's line, with its newline. ValueError as in `dumps`."""
    return dumps(record).encode() + b"\n"


@dataclass(frozen=True)
class Line:
    """One line of input: a record or an error."""

    number: int
    """From 1. Blank lines count."""
    raw: bytes
    """The line's bytes, with its newline. Cut just past MAX_LINE if the line is longer."""
    record: Record | None
    """None if there is an `error`."""
    error: str | None = None
    """Why the line is not a record."""


def _bounded(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines of `stream`, each cut just past MAX_LINE so that no line can fill the memory."""
    while line := stream.readline(MAX_LINE + 1):
        rest = line
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE + 1)
        yield line


class _Recorder:
    """Passes lines on and remembers the last one, because an error of jsonlines shows only a part of its line."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.lines, self.last = iter(lines), b""

    def __iter__(self) -> Iterator[bytes]:
        try:
            for line in self.lines:
                self.last = line
                yield line
        except (EOFError, zlib.error) as problem:  # a truncated gzip file; EOFError is also jsonlines' normal end
            raise gzip.BadGzipFile(str(problem)) from None


def parse(stream: IO[bytes], after: tuple[int, int] = (0, 0)) -> Iterator[Line]:
    """Every non-blank line of a binary stream, good or bad. `after`: skip so many lines, and then so many that are not blank."""
    lines, number = _bounded(stream), 0
    while number < after[0] and next(lines, None):
        number += 1
    left = after[1]
    while left and (raw := next(lines, None)):
        number, left = number + 1, left - bool(raw.strip())
    source = _Recorder(lines)
    with jsonlines.Reader(source, loads=loads) as reader:
        while True:
            try:
                value: Any = reader.read(allow_none=True)  # null gets the same message as other non-objects
                error = None
            except EOFError:
                return
            except jsonlines.InvalidLineError as problem:
                value, error = None, str(problem.__cause__ or problem)
            number += 1
            raw = source.last
            if not raw.strip():
                continue
            if len(raw) > MAX_LINE:
                error = f"the line is longer than {MAX_LINE // 2**20} MiB"
            elif error is None and not isinstance(value, dict):
                error = f"expected a JSON object, found {type(value).__name__}"
            elif error is not None:
                error = f"not valid JSON: {error}"
            yield Line(number, raw, None if error else value, error)


def _stdin() -> IO[bytes]:
    """Standard input, without Python's own buffer.

    A thread may still wait in a read when the command ends. If it held the lock of Python's buffer, Python would abort.
    """
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    except OSError:  # not a real file
        return sys.stdin.buffer


def open_input(path: str) -> IO[bytes]:
    """Open a file, a gzip file or `-` (standard input) for reading bytes. InputError if it cannot be opened."""
    if path == "-":
        return _stdin()
    try:
        if Path(path).is_dir():
            raise InputError(f"{path}: is a directory; give a JSONL file, or - for standard input")
        return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]
    except OSError as problem:
        raise InputError(f"{path}: {(problem.strerror or str(problem)).lower()}") from None


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """`open_input` as a context manager. InputError for a truncated or corrupt gzip file."""
    stream = open_input(path)
    try:
        yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as problem:
        raise InputError(f"{path}: not a complete gzip file ({problem})") from None
    finally:
        if path != "-":
            stream.close()


def read_lines(path: str, after: tuple[int, int] = (0, 0)) -> Iterator[Line]:
    """`parse` for a named input. InputError if it cannot be opened."""
    with opened(path) as stream:
        yield from parse(stream, after)


def read(path: str) -> Iterator[Record]:
    """The records of a file. InputError at the first bad line, with file and line number."""
    for line in read_lines(path):
        if line.record is None:
            raise bad_line(path, line.number, line.error or "")
        yield line.record


def bad_line(path: str, number: int, error: str, remedy: str = "; fix the line, or remove it") -> InputError:
    """The error for a bad line: `file:line: what is wrong, and what to do`."""
    name = "<stdin>" if path == "-" else path
    return InputError(f"{name}:{number}: {error}{remedy}")
