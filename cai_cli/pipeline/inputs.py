"""A step's input: a file is checked in advance; a pipe's lines are taken without waiting for more."""

from __future__ import annotations

import queue
import stat
import threading
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from cai_cli.data import jsonl
from cai_cli.data.ids import Ids
from cai_cli.data.jsonl import Line, Record
from cai_cli.data.records import take_in
from cai_cli.pipeline import manifest
from cai_cli.pipeline.manifest import Manifest

WINDOW = 1024
"""Largest number of records in flight."""
SKIP_BAD = "; fix the line, or skip such lines with --skip-bad"
Check = Callable[[Record], str | None]
"""What is wrong with a record, or None."""


class InputLines:
    """Input lines. `slow`: the input is a pipe that may be slow, so a thread reads it, and `take` need not wait."""

    def __init__(self, lines: Iterator[Line], slow: bool) -> None:
        self.lines, self.slow, self.ended = lines, slow, False
        if slow:
            # None is the end. The size limits how far the thread reads ahead.
            self.queue: queue.Queue[Line | BaseException | None] = queue.Queue(maxsize=WINDOW)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self.lines:
                self.queue.put(line)
            self.queue.put(None)
        except BaseException as problem:  # raised again by `take`, in the main thread
            self.queue.put(problem)

    def take(self, wait: bool) -> Line | None:
        """The next line. None at the end, when `ended` becomes true, or if there is no line yet (never with `wait`)."""
        if self.ended:
            return None
        taken: Line | BaseException | None
        if not self.slow:
            taken = next(self.lines, None)
        else:
            try:
                taken = self.queue.get(block=wait)
            except queue.Empty:
                return None
        if isinstance(taken, BaseException):
            self.ended = True
            raise taken
        if taken is None:
            self.ended = True
        return taken


def is_pipe(path: str) -> bool:
    """Whether an input can be read only once, as it arrives."""
    if path == "-":
        return True
    mode = Path(path).stat().st_mode if Path(path).exists() else stat.S_IFREG
    return not stat.S_ISREG(mode)


def source_hash(path: str) -> str | None:
    """SHA-256 of an input's bytes; None for a pipe. InputError if it cannot be opened."""
    if is_pipe(path):
        return None
    jsonl.open_input(path).close()
    return manifest.hash_file(path)


def preflight(path: str, check: Check, limit: int | None, skip_bad: bool) -> Manifest:
    """Check a whole input file before any model is loaded: how many `records` it has, and whether all are `named` by an id.

    InputError at the first bad line, unless `skip_bad`. A pipe cannot be checked in advance, and gives nothing.
    """
    if is_pipe(path):
        return {}
    records, named, ids = 0, True, Ids()
    for line in islice(jsonl.read_lines(path), limit):
        records += 1
        named = named and line.record is not None and line.record.get("id") is not None
        if error := line_error(line, check, ids):
            if not skip_bad:
                raise jsonl.bad_line(path, line.number, error, SKIP_BAD)
            named = False  # it may repeat an id, which a run that continues finds only if it reads every line
    return {"records": records, "named": named}


def line_error(line: Line, check: Check, ids: Ids) -> str | None:
    """What is wrong with a line, or None. Gives its record an id if it has none."""
    if line.record is None:
        return line.error
    take_in(line.record)
    return check(line.record) or ids.error(line.record, line.number)


def skipped_entry(line: Line, reason: str, record: Record | None = None) -> Record:
    """A skipped line as OUT.skipped.jsonl holds it. `record`: the line's record with the work done on it so far."""
    entry: Record = {"line": line.number, "error": reason}
    record = record or line.record
    raw = line.raw.decode(errors="replace").rstrip("\n")[:10_000]
    return entry | ({"record": record} if record is not None else {"text": raw})


def line_digest(line: Line, numbered: bool = False) -> str:
    """A digest of a line's bytes, without its line ending, which a resumed run compares; `numbered`: after the line's number."""
    digest = blake2b(line.raw.rstrip(b"\r\n"), digest_size=8).hexdigest()
    return f"{line.number}:{digest}" if numbered else digest
