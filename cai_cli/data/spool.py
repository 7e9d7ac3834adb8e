"""Lines on disk that can be read again in any order, so that memory does not grow with a file."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

from cai_cli.errors import CaiError


def directory() -> str:
    """Where large temporary files go: TMPDIR, or /var/tmp, because /tmp is often in memory."""
    wanted = os.environ.get("TMPDIR") or "/var/tmp"
    return wanted if os.access(wanted, os.W_OK) else tempfile.gettempdir()


@contextmanager
def _full() -> Iterator[None]:
    """CaiError if the disk is full."""
    try:
        yield
    except OSError as problem:
        why = (problem.strerror or "").lower()
        raise CaiError(f"{directory()}: could not write a temporary file ({why}); TMPDIR names another folder") from None


class Spool:
    """A temporary file of lines."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(dir=directory())  # noqa: SIM115  (it lives as long as the object)
        self.places = array("q")
        self.end = 0

    def add(self, line: bytes) -> None:
        """Append a line, with its newline. CaiError if the disk is full."""
        self.places.append(self.end)
        with _full():
            self.end += self.file.write(line)

    def __len__(self) -> int:
        """The number of lines."""
        return len(self.places)

    def __getitem__(self, number: int) -> bytes:
        """A line. IndexError if there is none."""
        with _full():
            self.file.seek(self.places[number])  # writes what is buffered
        return self.file.readline()

    def __iter__(self) -> Iterator[bytes]:
        """Every line, in order."""
        with _full():
            self.file.seek(0)
        yield from self.file
