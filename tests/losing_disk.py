"""A file system in memory that loses what was not flushed, as a power loss does.

    python -m tests.losing_disk MOUNT KEPT SEED

When MOUNT is unmounted, KEPT gets two folders. `strict` holds only what was flushed: a file's bytes as of its last fsync, under the
names that its directory had at its last fsync. `mixed` holds every name, as a file system that writes names before data would, and of
the bytes that were not flushed some pages, by chance; the others are zeros.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import sys
from itertools import count
from pathlib import Path
from typing import Any

import mfusepy

PAGE = 4096


class File:
    """A file: its bytes, and those that were flushed."""

    def __init__(self, mode: int) -> None:
        self.mode, self.data, self.kept = stat.S_IFREG | mode, bytearray(), b""

    def mixed(self, draw: random.Random) -> bytes:
        """Its bytes, in which pages that were not flushed may be zeros."""
        found = bytearray(self.data)
        for at in range(0, len(found), PAGE):
            now = found[at : at + PAGE]
            if now != self.kept[at : at + PAGE] and draw.random() < 0.5:
                found[at : at + PAGE] = self.kept[at : at + PAGE].ljust(len(now), b"\0")[: len(now)]
        return bytes(found)


class Folder:
    """A directory: its entries, and those that were flushed."""

    def __init__(self, mode: int) -> None:
        self.mode = stat.S_IFDIR | mode
        self.entries: dict[str, File | Folder] = {}
        self.kept: dict[str, File | Folder] = {}


class LosingDisk(mfusepy.Operations):
    """See the module."""

    use_ns = True

    def __init__(self, kept: Path, seed: int) -> None:
        self.kept, self.draw = kept, random.Random(seed)
        self.root, self.open_, self.handles = Folder(0o755), dict[int, File](), count(1)

    def _at(self, path: str) -> File | Folder:
        found: File | Folder = self.root
        for name in path.strip("/").split("/"):
            if name:
                if not isinstance(found, Folder) or name not in found.entries:
                    raise mfusepy.FuseOSError(errno.ENOENT)
                found = found.entries[name]
        return found

    def _parent(self, path: str) -> tuple[Any, str]:
        folder, _, name = path.rpartition("/")
        return self._at(folder), name

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        node = self._at(path)
        size = len(node.data) if isinstance(node, File) else 0
        return {"st_mode": node.mode, "st_size": size, "st_nlink": 1, "st_uid": os.getuid(), "st_gid": os.getgid()}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *self._parent(f"{path.rstrip('/')}/")[0].entries]

    def mkdir(self, path: str, mode: int) -> None:
        folder, name = self._parent(path)
        folder.entries[name] = Folder(mode)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        folder, name = self._parent(path)
        folder.entries[name] = File(mode)
        return self.open(path, 0)

    def open(self, path: str, flags: int) -> int:
        handle, node = next(self.handles), self._at(path)
        assert isinstance(node, File)
        self.open_[handle] = node
        return handle

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self.open_[fh].data[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        file = self.open_[fh].data
        file.extend(bytes(max(0, offset - len(file))))
        file[offset : offset + len(data)] = data
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        node = self.open_[fh] if fh else self._at(path)
        assert isinstance(node, File)
        del node.data[length:]
        node.data.extend(bytes(length - len(node.data)))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        (source, name), (target, under) = self._parent(old), self._parent(new)
        target.entries[under] = source.entries.pop(name)

    def unlink(self, path: str) -> None:
        folder, name = self._parent(path)
        del folder.entries[name]

    def rmdir(self, path: str) -> None:
        if getattr(self._at(path), "entries", None):
            raise mfusepy.FuseOSError(errno.ENOTEMPTY)
        self.unlink(path)

    def chmod(self, path: str, mode: int) -> None:
        self._at(path).mode = mode

    def utimens(self, path: str, times: Any = None) -> None: ...

    def flush(self, path: str, fh: int) -> None: ...

    def release(self, path: str, fh: int) -> None:
        self.open_.pop(fh)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self.open_[fh].kept = bytes(self.open_[fh].data)

    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        folder = self._at(path)
        assert isinstance(folder, Folder)
        folder.kept = dict(folder.entries)

    def destroy(self, path: str) -> None:
        self._save(self.root, self.kept / "strict", strict=True)
        self._save(self.root, self.kept / "mixed", strict=False)

    def _save(self, folder: Folder, target: Path, strict: bool) -> None:
        target.mkdir(parents=True)
        for name, node in (folder.kept if strict else folder.entries).items():
            if isinstance(node, Folder):
                self._save(node, target / name, strict)
            else:
                (target / name).write_bytes(node.kept if strict else node.mixed(self.draw))


if __name__ == "__main__":
    mfusepy.FUSE(LosingDisk(Path(sys.argv[2]), int(sys.argv[3])), sys.argv[1], foreground=True, nothreads=True, hard_remove=True)
