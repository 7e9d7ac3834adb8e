"""Where a step's records go: a file that appears only when complete, or standard output.

    OUT.partial                 the records so far, in input order
    OUT.partial.journal         a line an input record: its digest, how many output and set-aside
                                lines it gave, its tokens (prompt, completion, reused), and the seconds so far
    OUT.partial.manifest.json   the fingerprint of the run, from the start
    OUT.rejected.jsonl.partial  the lines set aside

Records go out before their journal line, so after a kill the journal never claims more than is
there: a resumed run cuts each file back to what the journal vouches for (or, if a file was torn,
the journal back to the file) and goes on. When all is done the manifest is written and
OUT.partial renamed to OUT.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from cai_cli import jsonl, manifest, streams
from cai_cli.errors import CaiError, InputError
from cai_cli.jsonl import Record
from cai_cli.manifest import Manifest
from cai_cli.streams import plural

Tokens = tuple[int, int, int]
"""Prompt tokens, completion tokens, and how many of the prompts' were reused from another request."""


@dataclass
class Counts:
    """What a step has done so far. `seconds` runs on over resumed runs."""

    records_in: int = 0
    records_out: int = 0
    set_aside: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused_tokens: int = 0
    seconds: float = 0.0

    def add(self, outputs: int, set_aside: int, tokens: Sequence[int]) -> None:
        """Count one input record. See `Tokens`."""
        self.records_in += 1
        self.records_out += outputs
        self.set_aside += set_aside
        self.prompt_tokens += tokens[0]
        self.completion_tokens += tokens[1]
        self.reused_tokens += tokens[2]


def _failed(path: str | Path, problem: OSError) -> CaiError:
    if problem.errno == errno.ENOSPC:
        return CaiError(f"{path}: the disk is full; what was finished is kept: make room and give the same command again")
    return CaiError(f"{path}: can't be written ({(problem.strerror or str(problem)).lower()})")


def _lines(path: Path) -> Iterator[bytes]:
    """The complete lines of a file; a torn last line is not one."""
    with suppress(FileNotFoundError), path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield line


def _write_all(stream: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


class FileOutput:
    """OUT, written as OUT.partial and renamed when complete. Resumes its own unfinished work."""

    def __init__(self, path: str, fingerprint: Manifest, restart: bool = False) -> None:
        self.path = Path(path)
        self.partial = Path(f"{path}.partial")
        self.journal = Path(f"{path}.partial.journal")
        self.partial_manifest = Path(f"{path}.partial.manifest.json")
        self.rejected = Path(f"{path}.rejected.jsonl")
        self.partial_rejected = Path(f"{path}.rejected.jsonl.partial")
        self.counts = Counts()
        self.done: list[str] = []
        """Digests of the input records that an earlier run finished, in input order."""
        if self.path.is_dir():
            raise InputError(f"{path}: is a directory; -o takes a file name")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open(fingerprint, restart)
        except OSError as problem:
            raise _failed(self.partial, problem) from None
        self._began = time.monotonic() - self.counts.seconds

    def _open(self, fingerprint: Manifest, restart: bool) -> None:
        stale = not self.partial.exists()  # a kill after the last rename leaves only what stands beside it
        lock = self.partial.open("ab", buffering=0)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CaiError(f"{self.partial}: another run is writing it; wait for it, or give another -o") from None
        resumable = self.partial_manifest.exists() and not restart and not stale
        if resumable:
            manifest.require_same(manifest.read(self.partial_manifest), fingerprint, str(self.partial))
            self._recover()
        else:
            lock.truncate(0)
            for path in (self.journal, self.partial_rejected):
                path.unlink(missing_ok=True)
            manifest.write(self.partial_manifest, {"fingerprint": fingerprint, "command": manifest.command_line()})
        self.out = lock
        self.log = self.journal.open("ab", buffering=0)

    def _recover(self) -> None:
        """Cut the three files back to the last input record that all of them have whole."""
        if self.rejected.exists() and not self.partial_rejected.exists():  # a kill between the last two renames
            os.replace(self.rejected, self.partial_rejected)
        out, aside = _lines(self.partial), _lines(self.partial_rejected)
        kept = {self.journal: 0, self.partial: 0, self.partial_rejected: 0}
        for line in _lines(self.journal):
            try:
                digest, n_out, n_aside, *tokens, seconds = json.loads(line)
            except ValueError:
                break
            outs = [next(out, None) for _ in range(n_out)]
            asides = [next(aside, None) for _ in range(n_aside)]
            if None in outs or None in asides:
                break
            kept[self.journal] += len(line)
            kept[self.partial] += sum(len(o) for o in outs if o)
            kept[self.partial_rejected] += sum(len(a) for a in asides if a)
            self.done.append(digest)
            self.counts.add(n_out, n_aside, tokens)
            self.counts.seconds = seconds
        for path, size in kept.items():
            if path.exists():
                os.truncate(path, size)

    def written(self) -> Iterator[Record]:
        """The records of the unfinished output so far."""
        return (json.loads(line) for line in _lines(self.partial))

    def write(self, digest: str, outputs: list[Record], rejects: list[Record], tokens: Tokens) -> None:
        """Everything that one input record gave, and the journal's line for it."""
        counts = self.counts
        try:
            if outputs:
                _write_all(self.out, b"".join(map(jsonl.encode, outputs)))
            if rejects:
                with self.partial_rejected.open("ab", buffering=0) as stream:
                    _write_all(stream, b"".join(map(jsonl.encode, rejects)))
            counts.seconds = round(time.monotonic() - self._began, 3)
            line = jsonl.encode([digest, len(outputs), len(rejects), *tokens, counts.seconds])
            _write_all(self.log, line)
        except OSError as problem:
            raise _failed(self.partial, problem) from None
        counts.add(len(outputs), len(rejects), tokens)

    def finish(self, content: Manifest) -> None:
        """Write the manifest and put OUT in place."""
        try:
            self.out.flush()
            os.fsync(self.out.fileno())
            digest = manifest.hash_file(self.partial)
            manifest.write(f"{self.path}.manifest.json", {**content, "output": {"path": str(self.path), "sha256": digest}})
            if not self.counts.set_aside:
                self.partial_rejected.unlink(missing_ok=True)
                self.rejected.unlink(missing_ok=True)
            elif self.partial_rejected.exists():
                os.replace(self.partial_rejected, self.rejected)
            os.replace(self.partial, self.path)  # last: a kill before this is made good by the same command
            self.partial_manifest.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)
        except OSError as problem:
            raise _failed(self.path, problem) from None

    def close(self) -> None:
        """Release the files; unfinished work stays for the next run."""
        self.out.close()
        self.log.close()

    def how_to_go_on(self) -> str:
        """A clause for the message of an interrupted run."""
        done = plural(self.counts.records_in, "finished record")
        return f"{self.partial} holds {done}; the same command goes on from there"


class StreamOutput:
    """Standard output. It can't resume; `manifest_path` keeps the manifest where one is wanted."""

    def __init__(self, stream: IO[bytes], manifest_path: str | None = None) -> None:
        self.stream, self.manifest_path = stream, manifest_path
        self.counts = Counts()
        self.done: list[str] = []
        self._sha, self._began = sha256(), time.monotonic()

    def written(self) -> Iterator[Record]:
        """None: what went out can't be read again."""
        return iter(())

    def write(self, digest: str, outputs: list[Record], rejects: list[Record], tokens: Tokens) -> None:
        """Everything that one input record gave. Set-aside lines are only counted and named."""
        data = b"".join(map(jsonl.encode, outputs))
        self._sha.update(data)
        try:
            _write_all(self.stream, data)
        except BrokenPipeError:
            raise
        except OSError as problem:
            raise _failed("standard output", problem) from None
        counts = self.counts
        counts.add(len(outputs), len(rejects), tokens)
        counts.seconds = round(time.monotonic() - self._began, 3)

    def finish(self, content: Manifest) -> None:
        """Write the manifest where --manifest says."""
        if self.manifest_path:
            manifest.write(self.manifest_path, {**content, "output": {"path": "-", "sha256": self._sha.hexdigest()}})

    def close(self) -> None:
        """Let the next command in the pipe see the end."""
        with suppress(BrokenPipeError):
            self.stream.close()

    def how_to_go_on(self) -> str:
        """A clause for the message of an interrupted run."""
        return f"{self.counts.records_out} records were written; give -o FILE to be able to go on"


def count_fields(counts: Counts) -> dict[str, Any]:
    """The counts as a manifest holds them."""
    return asdict(counts)


def source(path: str) -> dict[str, Any]:
    """An input as a manifest names it: its path and the SHA-256 of its bytes (None for a pipe)."""
    return {"path": path, "sha256": manifest.hash_file(path) if Path(path).is_file() else None}


def write_text(path: str, text: str) -> None:
    """Write a text to a file that appears only when complete, or to stdout or a device. No manifest."""
    if path == "-" or (Path(path).exists() and not Path(path).is_file()):
        with streams.claim_stdout() if path == "-" else open(path, "wb", buffering=0) as stream:
            _write_all(stream, text.encode())
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        manifest.write_atomic(path, text.encode())
    except OSError as problem:
        raise _failed(path, problem) from None


def write_file(path: str, lines: Iterable[bytes], about: Manifest, rejected: Sequence[Record] = ()) -> None:
    """Write whole lines to a file that appears only when complete, its manifest beside it, or to stdout or a device.

    For the quick steps that need no model and so no resuming. `about` and `rejected`, which go to OUT.rejected.jsonl,
    are read after the last line.
    """
    if path == "-" or (Path(path).exists() and not Path(path).is_file()):
        with streams.claim_stdout() if path == "-" else open(path, "wb", buffering=0) as stream:
            for line in lines:
                _write_all(stream, line)
        return
    partial = Path(f"{path}.partial")
    digest = sha256()
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            for line in lines:
                digest.update(line)
                stream.write(line)
        made = {"command": manifest.command_line(), "finished": manifest.now(), "versions": manifest.versions()}
        content = {**about, **made, "output": {"path": path, "sha256": digest.hexdigest()}}
        manifest.write(f"{path}.manifest.json", content)
        aside = Path(f"{path}.rejected.jsonl")
        aside.unlink(missing_ok=True)
        if rejected:
            manifest.write_atomic(aside, b"".join(map(jsonl.encode, rejected)))
        os.replace(partial, path)
    except OSError as problem:
        raise _failed(path, problem) from None
