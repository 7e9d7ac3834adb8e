"""A step's input: its lines, taken without waiting where the input is a pipe, and checked ahead where it's a file."""

from __future__ import annotations

import queue
import stat
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cai_cli import jsonl, manifest
from cai_cli.jsonl import Line, Record
from cai_cli.records import Ids

WINDOW = 1024
"""Records in flight at most."""
SKIP_BAD = "; mend the line, or set such lines aside with --skip-bad"
Check = Callable[[Record], str | None]


_END = object()


class Source:
    """Input lines, taken without waiting where the input is a pipe that may be slow."""

    def __init__(self, lines: Iterator[Line], slow: bool) -> None:
        self.lines, self.slow, self.ended = lines, slow, False
        if slow:
            self.queue: queue.Queue[Any] = queue.Queue(maxsize=WINDOW)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self.lines:
                self.queue.put(line)
            self.queue.put(_END)
        except BaseException as problem:
            self.queue.put(problem)

    def take(self, wait: bool) -> Line | None:
        """The next line. None: none yet (not with `wait`), or the end, when `ended` is set."""
        if self.ended:
            return None
        if not self.slow:
            taken = next(self.lines, _END)
        else:
            try:
                taken = self.queue.get(block=wait)
            except queue.Empty:
                return None
        if isinstance(taken, BaseException):
            self.ended = True
            raise taken
        if taken is _END:
            self.ended = True
            return None
        return taken  # type: ignore[return-value]


def is_pipe(path: str) -> bool:
    """Whether an input can be read only once, as it comes."""
    if path == "-":
        return True
    mode = Path(path).stat().st_mode if Path(path).exists() else stat.S_IFREG
    return not stat.S_ISREG(mode)


def preflight(path: str, check: Check, limit: int | None, skip_bad: bool) -> tuple[str | None, int | None]:
    """Check a whole input file before any model is loaded: (SHA-256 of its bytes, records).

    InputError at the first bad line, unless `skip_bad`. A pipe can't be checked ahead: (None, None).
    """
    if is_pipe(path):
        return None, None
    records, ids = 0, Ids()
    for line in islice(jsonl.read_lines(path), limit):
        records += 1
        if (error := line_error(line, check, ids)) and not skip_bad:
            raise jsonl.bad_line(path, line.number, error, SKIP_BAD)
    return manifest.hash_file(path), records


def line_error(line: Line, check: Check, ids: Ids) -> str | None:
    """What is wrong with a line; gives its record an id, if it lacks one."""
    if line.record is None:
        return line.error
    return check(line.record) or ids.error(line.record, line.number)
