"""Finished records that wait on disk for an unfinished one before them.

Output is in input order, so one long text at the head of the window holds back everything after it. The engine must not wait for
it: the runner goes on, and when more records have finished than the window holds, the next ones wait in this file. A run that
is killed finds them there again.

    OUT.partial.ahead    per line: the input line's number and digest, its output records, its skipped records, its `Tokens`
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from cai_cli.data import durable, jsonl, spool
from cai_cli.pipeline.disk import failed

AHEAD = 65_536
"""The largest number of finished records that wait for one. Each takes some 200 bytes of memory."""
SLACK = 2**26
"""How many bytes of records that no longer wait the file may hold, beyond as many as those of the others."""
MAX_ENTRY = 2**30
"""The most bytes of a line that is read again; what a run writes is far shorter."""
_DIGEST = re.compile(r"\d{1,18}:[0-9a-f]+")
Finished = tuple[str, list[jsonl.Record], list[jsonl.Record], Any]
"""What names an input line (`inputs.line_digest`), its output records, its skipped records, and its `outputs.Tokens`."""


def _entry(line: bytes) -> Finished | None:
    """A line of the file; None if it is torn, or none of this command's."""
    try:
        digest, made, skipped, tokens = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    named = isinstance(digest, str) and _DIGEST.fullmatch(digest) and line.endswith(b"\n")
    records = isinstance(made, list) and isinstance(skipped, list) and all(isinstance(each, dict) for each in made + skipped)
    counts = isinstance(tokens, list) and len(tokens) == 4 and all(isinstance(each, int) for each in tokens)
    return (digest, made, skipped, tokens) if named and records and counts else None


class Ahead:
    """The file, made when the first record waits."""

    def __init__(self, path: Path | None) -> None:
        """`path`: of the file. None: a temporary one, for an output that cannot resume."""
        self.path = path
        self.places: dict[int, int] = {}
        """The place in the file, in bytes, of every record that waits, by its number. The places increase."""
        self.known: dict[str, int] = {}
        """The numbers of the records that an earlier run left."""
        self.sought = False
        self.end = self.dead = 0  # bytes in the file, and how many of them belong to records that no longer wait
        self.serial = count()
        self.file: Any = None
        if path:
            self._new(path).unlink(missing_ok=True)
        if path and path.exists():
            self._recover(path)

    @staticmethod
    def _new(path: Path) -> Path:
        """What takes the file's place when it is made smaller."""
        return path.with_name(f"{path.name}.new")

    def _recover(self, path: Path) -> None:
        """Find the records of an earlier run. A torn line ends the file."""
        self.file = path.open("rb+")
        found: dict[str, int] = {}
        for line in iter(partial(self.file.readline, MAX_ENTRY), b""):
            if (entry := _entry(line)) is None:
                break
            digest = entry[0]
            found.pop(digest, None)  # the places must increase
            found[digest] = self.end
            self.end += len(line)
        self.file.truncate(self.end)
        for digest, place in found.items():
            self.known[digest] = number = next(self.serial)
            self.places[number] = place

    def put(self, finished: Finished) -> int:
        """Write a record to the file. Returns its number. CaiError if the disk is full."""
        number = next(self.serial)
        try:
            if self.file is None:
                # SIM115: the file lives as long as the object
                self.file = self.path.open("wb+") if self.path else tempfile.TemporaryFile(dir=spool.directory())  # noqa: SIM115
            self.file.seek(self.end)
            self.places[number] = self.end
            self.end += self.file.write(jsonl.encode(finished))
        except OSError as problem:
            raise failed(self.path or spool.directory(), problem) from None
        return number

    def find(self, digest: str) -> int | None:
        """The number of a record that an earlier run finished; None if it did not."""
        if not self.sought:  # lines come in order: what is older than the first was written before the run ended
            self.sought, first = True, int(digest.partition(":")[0])
            for name in [name for name in self.known if int(name.partition(":")[0]) < first]:
                del self.places[self.known.pop(name)]
        return self.known.pop(digest, None)

    def take(self, number: int) -> Finished:
        """Read a record again, which then waits no longer. CaiError if the disk is full."""
        try:
            self.file.seek(self.places.pop(number))  # writes what is buffered
            line = self.file.readline()
            self.dead += len(line)
            if not self.places or self.dead > SLACK + self.end // 2:
                self._compact()
        except OSError as problem:
            raise failed(self.path or spool.directory(), problem) from None
        found: Finished = tuple(json.loads(line))
        return found

    def _compact(self) -> None:
        """Leave only the records that wait: in a new file, because a power loss must not leave halves of two records as one."""
        self.end = self.dead = 0
        if not self.places:
            self.file.truncate(0)
            return
        new = self._new(self.path) if self.path else None
        # SIM115: as in `put`
        file = new.open("wb+") if new else tempfile.TemporaryFile(dir=spool.directory())  # noqa: SIM115
        for number, place in self.places.items():
            self.file.seek(place)
            self.places[number] = self.end
            self.end += file.write(self.file.readline())
        if new and self.path:
            file.flush()
            durable.replace(new, self.path)
        self.file.close()
        self.file = file

    def flush(self) -> None:
        """Give what is buffered to the operating system."""
        if self.file is not None:
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            with suppress(OSError):  # a full disk, which was reported
                self.file.close()
