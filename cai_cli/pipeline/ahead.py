"""Finished records that wait on disk for an unfinished one before them.

Output is in input order, so one long text at the head of the window holds back everything after it. The engine must not wait for
it: the runner goes on, and when more records have finished than the window holds, the next ones wait in this file. A run that
is killed finds them there again.

    OUT.partial.ahead    per line: the input line's number and digest, its output records, its skipped records, its `Tokens`
"""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from cai_cli.data import jsonl, spool
from cai_cli.pipeline.disk import failed

AHEAD = 65_536
"""The largest number of finished records that wait for one. Each takes some 200 bytes of memory."""
Finished = tuple[str, list[jsonl.Record], list[jsonl.Record], Any]
"""What names an input line (`inputs.line_digest`), its output records, its skipped records, and its `outputs.Tokens`."""


class Ahead:
    """The file, made when the first record waits. A record in it is named by its place, in bytes."""

    def __init__(self, path: Path | None) -> None:
        """`path`: of the file. None: a temporary one, for an output that cannot resume."""
        self.path = path
        self.waiting = 0
        """How many records wait."""
        self.known: dict[str, int] = {}
        """The places of the records that an earlier run left."""
        self.sought = False
        self.file: Any = None
        if path and path.exists():
            self._recover(path)

    def _recover(self, path: Path) -> None:
        """Find the records of an earlier run. A torn last line is cut off."""
        self.file = path.open("rb+")
        end = 0
        for line in self.file:
            try:
                digest = json.loads(line)[0]
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            self.known[digest] = end
            end += len(line)
        self.file.truncate(end)

    def put(self, finished: Finished) -> int:
        """Write a record to the file. Returns its place. CaiError if the disk is full."""
        try:
            if self.file is None:
                # SIM115: the file lives as long as the object
                self.file = self.path.open("wb+") if self.path else tempfile.TemporaryFile(dir=spool.directory())  # noqa: SIM115
            place: int = self.file.seek(0, 2)
            self.file.write(jsonl.encode(finished))
        except OSError as problem:
            raise failed(self.path or spool.directory(), problem) from None
        self.waiting += 1
        return place

    def find(self, digest: str) -> int | None:
        """The place of a record that an earlier run finished; None if it did not."""
        place = self.known.pop(digest, None)
        if not self.sought:  # lines come in order: what is older than the first was written before the run ended
            self.sought, first = True, int(digest.partition(":")[0])
            self.known = {name: at for name, at in self.known.items() if int(name.partition(":")[0]) > first}
        self.waiting += place is not None
        return place

    def take(self, place: int) -> Finished:
        """Read a record again. The file becomes empty when no record waits."""
        self.file.seek(place)
        found: Finished = tuple(json.loads(self.file.readline()))
        self.waiting -= 1
        if not self.waiting and not self.known:
            self.file.truncate(0)
        return found

    def flush(self) -> None:
        """Give what is buffered to the operating system."""
        if self.file is not None:
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            with suppress(OSError):  # a full disk, which was reported
                self.file.close()
