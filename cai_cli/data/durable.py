"""Final names that survive a crash of the machine: a file or directory under its final name is always complete.

A rename alone does not promise that. After a power loss a file system may have kept the new name, and lost the data.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


def flush(path: str | Path) -> None:
    """Flush a file to the disk, or the names in a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        # some network file systems cannot flush a directory; they write it at once
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync(path: str | Path) -> None:
    """Flush a file to the disk, or a directory with everything in it."""
    for part in [*Path(path).rglob("*"), Path(path)]:
        flush(part)


def make_folder(path: str | Path) -> None:
    """Make a directory and those above it, unless they exist; a new one keeps its name after a crash."""
    folder = Path(path)
    for missing in [part for part in (*reversed(folder.parents), folder) if not part.exists()]:
        missing.mkdir(exist_ok=True)
        flush(missing.parent)


def replace(source: str | Path, target: str | Path) -> None:
    """Give a finished file or directory its final name, in the same directory."""
    sync(source)
    os.replace(source, target)
    flush(Path(target).parent)
