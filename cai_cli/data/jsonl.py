"""Strict JSONL: read bytes line by line, name every bad line, encode each record as exactly one line.

Reading uses `jsonlines` with its own `loads`, because the standard decoder accepts NaN, Infinity and lone surrogates,
and raises RecursionError on deep nesting. Files that end in `.gz` are read through gzip; `-` is standard input. No file can
fill the memory or run for hours: a line, a number, the nesting and what a gzip file unpacks to are limited.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import IO, Any, NoReturn

import jsonlines

from cai_cli.errors import InputError

MAX_LINE = 64 * 2**20
"""Longest line accepted, in bytes."""
MAX_DEPTH = 64
"""Deepest nesting of objects and arrays accepted."""

MAX_DIGITS = 200
"""Longest number accepted, in characters. Such an integer is also a float."""
MAX_RATIO = 100
"""How many times its own size a gzip file may unpack to, beyond MAX_LINE bytes. Text packs to a fifth, records to a twentieth."""

Record = dict[str, Any]


def as_object(value: object) -> Record:
    """A value if it is an object, else an empty one: for fields such as `meta`, which other tools fill in other ways."""
    return value if isinstance(value, dict) else {}


def item(values: Any, i: int) -> Any:
    """An item of a list; None if there is no such item, or no list."""
    return values[i] if isinstance(values, list) and i < len(values) else None


class _Wrong(ValueError):
    """A number or constant that is not accepted, by its spelling, and why."""

    def __init__(self, spelling: str, why: str) -> None:
        super().__init__(why)
        self.spelling = spelling


def _no_constant(name: str) -> NoReturn:
    raise _Wrong(name, f"{name} is not JSON")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Wrong(text, f"a number of more than {MAX_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise _Wrong(text, f"a number of more than {MAX_DIGITS} digits")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Wrong(text, f"the number {text[:20]} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer, parse_float=_finite)
SPACE = re.compile(r"[ \t\n\r]*")
"""What may stand between two parts of JSON."""
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]')


def _too_deep(text: str, start: int, end: int) -> int | None:
    """Where the nesting of the JSON between two positions exceeds MAX_DEPTH. Brackets inside strings do not count."""
    # A quick bound: only a text with many brackets needs the scan below.
    if text.count("[", start, end) + text.count("{", start, end) <= MAX_DEPTH:
        return None
    depth = 0
    for part in _STRING_OR_BRACKET.finditer(text, start, end):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part[0], 0)
        if depth > MAX_DEPTH:
            return part.start()
    return None


class Refused(JSONDecodeError):
    """JSON that is beyond a limit, or that is JSON only for Python."""


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """The strict JSON value that begins at `start`, and where it ends. JSONDecodeError; `Refused` for what `loads` lists."""
    deep = f"nested deeper than {MAX_DEPTH} levels"
    try:
        value, end = _DECODER.raw_decode(text, start)
    except _Wrong as problem:
        raise Refused(str(problem), text, text.find(problem.spelling, start)) from None
    except RecursionError:
        raise Refused(deep, text, _too_deep(text, start, len(text)) or start) from None
    if place := _too_deep(text, start, end):
        raise Refused(deep, text, place)
    if (place := text.find("\\u", start, end)) >= 0:  # only an escape can spell a lone surrogate; encoding the value finds it
        try:
            dumps(value)
        except ValueError as problem:
            raise Refused(str(problem), text, place) from None
    return value, end


def loads(text: str | bytes) -> Any:
    """Decode one strict JSON value.

    Raises ValueError for bad JSON, NaN or Infinity, a lone surrogate, nesting deeper than
    `MAX_DEPTH`, or a number of more than `MAX_DIGITS`. With valid UTF-8 it is a JSONDecodeError.
    """
    text = text.decode() if isinstance(text, bytes) else text
    value, end = decode(text, _skip_space(text, 0))
    if (end := _skip_space(text, end)) < len(text):
        raise JSONDecodeError("Extra data", text, end)
    return value


def _skip_space(text: str, start: int) -> int:
    found = SPACE.match(text, start)
    return found.end() if found else start


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def dumps(value: object) -> str:
    """Encode as one line of strict JSON. Non-ASCII text stays readable.

    Raises ValueError for NaN, Infinity and lone surrogates.
    """
    text = _ENCODER.encode(value)
    _utf8(text)
    return text


def encode(record: object) -> bytes:
    """The bytes of a record's line, with its newline. ValueError as in `dumps`."""
    return _utf8(_ENCODER.encode(record) + "\n")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate (half of a character pair)") from None


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


def bounded(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines of `stream`, each cut just past MAX_LINE so that no line can fill the memory. The next one skips what was cut off."""
    while line := stream.readline(MAX_LINE + 1):
        yield line
        rest = line if len(line) > MAX_LINE else b""
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(2**20)


class _Recorder:
    """Passes lines on and remembers the last one, because an error of jsonlines shows only a part of its line."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.lines, self.last = iter(lines), b""

    def __iter__(self) -> Iterator[bytes]:
        try:
            for line in self.lines:
                self.last = line
                yield line if len(line) <= MAX_LINE else b"null"  # what is too long is not decoded
        except (EOFError, zlib.error) as problem:  # a truncated gzip file; EOFError is also jsonlines' normal end
            raise gzip.BadGzipFile(str(problem)) from None


TOO_LONG = "the line is longer than {} MiB"


def parse(stream: IO[bytes], after: tuple[int, int] = (0, 0)) -> Iterator[Line]:
    """Every non-blank line of a binary stream, good or bad. `after`: skip so many lines, and then so many that are not blank."""
    lines, number = bounded(stream), 0
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
                error = TOO_LONG.format(MAX_LINE // 2**20)
            elif error is None and not isinstance(value, dict):
                error = f"expected a JSON object, found {type(value).__name__}"
            elif error is not None:
                error = f"not valid JSON: {error}"
            yield Line(number, raw, None if error else value, error)


class _Gzip(gzip.GzipFile):
    """A gzip file. InputError, with the line, where it unpacks to more than MAX_LINE bytes and MAX_RATIO times its size."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "rb")
        self.path, self.lines = path, 0
        size = os.fstat(self.fileno()).st_size or sys.maxsize  # a pipe has no size
        self.most = max(MAX_LINE, MAX_RATIO * size)

    def readline(self, size: int | None = -1) -> bytes:
        """A line, of at most `size` bytes."""
        return self._counted(super().readline(size))

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes."""
        return self._counted(super().read(size))

    def _counted(self, data: bytes) -> bytes:
        if self.tell() > self.most:
            what = f"unpacks to more than {MAX_RATIO} times the file's size"
            raise bad_line(self.path, self.lines + 1, what, "; if you trust it, unpack it and give the plain file")
        self.lines += data.count(b"\n")
        return data


def _stdin() -> IO[bytes]:
    """Standard input, without Python's own buffer.

    A thread may still wait in a read when the command ends. If it held the lock of Python's buffer, Python would abort.
    """
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    except OSError:  # not a real file
        return io.BufferedReader(sys.stdin.buffer)  # type: ignore[type-var]


def open_input(path: str) -> IO[bytes]:
    """Open a file, a gzip file or `-` (standard input) for reading bytes. InputError if it cannot be opened."""
    if path == "-":
        return _stdin()
    try:
        if Path(path).is_dir():
            raise InputError(f"{path}: is a directory; give a JSONL file, or - for standard input")
        return _Gzip(path) if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]
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
