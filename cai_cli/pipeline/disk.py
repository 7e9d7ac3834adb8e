"""How the files of a run are written and read again, whatever happens to the process, the disk or the machine."""

from __future__ import annotations

import errno
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from cai_cli.errors import CaiError

STDOUT = "standard output"
"""Its name in messages."""


def failed(path: str | Path, problem: OSError) -> CaiError:
    """The error of a file that could not be written, in one sentence."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        kept = "" if path == STDOUT else "finished work is kept: "
        return CaiError(f"{path}: the disk is full; {kept}free some space and run the same command again")
    return CaiError(f"{path}: could not be written ({(problem.strerror or str(problem)).lower()})")


def complete_lines(path: Path, longest: int = -1) -> Iterator[bytes]:
    """The complete lines of a file, up to a torn one, or one of more than `longest` bytes.

    A machine that crashes may leave zeros where data was not yet on the disk. No line of ours holds a zero byte.
    """
    with suppress(FileNotFoundError), path.open("rb") as stream:
        for line in iter(partial(stream.readline, longest), b""):
            if not line.endswith(b"\n") or b"\0" in line:
                return
            yield line


def locked(path: Path) -> io.FileIO:
    """The file, to append to; it is created if there is none. CaiError if another process writes it."""
    stream = io.FileIO(path, "ab")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the other run may have given it its final name since it was opened here
        mine = os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except OSError as problem:
        if problem.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.ENOENT):
            stream.close()
            raise CaiError(f"{path}: its file system has no locks ({problem.strerror}); give -o on another one") from None
        mine = False
    if not mine:
        stream.close()
        raise CaiError(f"{path}: another run is writing it; wait for it, or give another -o")
    return stream


def write_all(stream: IO[bytes], data: bytes | bytearray) -> None:
    """Write all of `data`: one write to an unbuffered stream may write only a part."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]
