"""Lines on disk that can be read again in any order, so that memory does not grow with a file."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator


class Spool:
    """A temporary file of lines."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the object)
        self.places = array("q")
        self.end = 0

    def add(self, line: bytes) -> None:
        """Append a line, with its newline."""
        self.places.append(self.end)
        self.end += self.file.write(line)

    def __len__(self) -> int:
        """The number of lines."""
        return len(self.places)

    def __getitem__(self, number: int) -> bytes:
        """A line. IndexError if there is none."""
        self.file.seek(self.places[number])
        return self.file.readline()

    def __iter__(self) -> Iterator[bytes]:
        """Every line, in order."""
        self.file.seek(0)
        yield from self.file
