"""Where a step's records go: a file that appears only when complete, or standard output.

    OUT.partial                 the records so far, in input order
    OUT.partial.journal         one line per input record: its digest, its numbers of output and skipped lines,
                                its tokens (prompt, completion, reused), its requests from the cache, and the seconds so far
    OUT.partial.manifest.json   the fingerprint of the run, from the start
    OUT.skipped.jsonl.partial   the skipped records, with their reasons
    OUT.order                   of a shard: the finished journal, from which `cai join` restores the order of the input

Records are written before their journal line, so after a kill the journal never lists more records than the files hold. A
resumed run cuts each file back to the records that the journal lists (or the journal, if a file lost records) and continues.
At the end the manifest is written and OUT.partial is renamed to OUT.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any

from cai_cli import streams
from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.errors import CaiError, InputError
from cai_cli.pipeline import manifest
from cai_cli.pipeline.manifest import Manifest
from cai_cli.streams import plural

Tokens = tuple[int, int, int, int]
"""Prompt tokens, completion tokens, how many prompt tokens were reused, and how many requests were answered from the cache."""


@dataclass
class Counts:
    """What a step has done so far."""

    records_in: int = 0
    records_out: int = 0
    skipped: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused_tokens: int = 0
    cached_calls: int = 0
    """Requests whose answers an earlier run computed (`engines.answers`)."""
    seconds: float = 0.0
    """Wall-clock time, summed over resumed runs."""

    def add(self, outputs: int, skipped: int, tokens: Sequence[int]) -> None:
        """Count one input record: its numbers of output and skipped lines, and its `Tokens`."""
        self.records_in += 1
        self.records_out += outputs
        self.skipped += skipped
        self.prompt_tokens += tokens[0]
        self.completion_tokens += tokens[1]
        self.reused_tokens += tokens[2]
        self.cached_calls += sum(tokens[3:])  # a run that an earlier version began has no such number


def _failed(path: str | Path, problem: OSError) -> CaiError:
    if problem.errno == errno.ENOSPC:
        return CaiError(f"{path}: the disk is full; finished work is kept: free some space and run the same command again")
    return CaiError(f"{path}: could not be written ({(problem.strerror or str(problem)).lower()})")


def _lines(path: Path) -> Iterator[bytes]:
    """The complete lines of a file. A torn last line is left out."""
    with suppress(FileNotFoundError), path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield line


def _write_all(stream: IO[bytes], data: bytes) -> None:
    """Write all of `data`: one write to an unbuffered stream may write only a part."""
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
        self.skipped = Path(f"{path}.skipped.jsonl")
        self.partial_skipped = Path(f"{path}.skipped.jsonl.partial")
        self.counts = Counts()
        self.done: list[str] = []
        """Digests of the input records that an earlier run finished, in input order."""
        _require_no_directory(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open(fingerprint, restart)
        except OSError as problem:
            raise _failed(self.partial, problem) from None
        self._began = time.monotonic() - self.counts.seconds

    def _open(self, fingerprint: Manifest, restart: bool) -> None:
        # A kill right after the last rename of `finish` leaves the journal and the fingerprint of a finished run: start over.
        stale = not self.partial.exists()
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
            for path in (self.journal, self.partial_skipped):
                path.unlink(missing_ok=True)
            manifest.write(self.partial_manifest, {"fingerprint": fingerprint, "command": manifest.command_line()})
        self.out = lock
        self.log = self.journal.open("ab", buffering=0)

    def _entries(self) -> Iterator[list[Any]]:
        """Per journal line: [the line, digest, number of output lines, of skipped lines, `Tokens`, seconds]."""
        for line in _lines(self.journal):
            try:
                digest, *numbers = jsonl.loads(line)
            except (ValueError, TypeError):
                return  # a torn line in the middle: a machine that crashes may have written blocks in any order
            if (
                len(numbers) < 6
                or not all(type(n) in (int, float) and n >= 0 for n in numbers)
                or float in map(type, numbers[:-1])
            ):
                return
            yield [line, digest, *numbers]

    def _recover(self) -> None:
        """Cut the three files back to the last input record that all of them hold completely.

        The files are read in parallel: each journal line says how many lines of the other two belong to it.
        """
        # `finish` renames the skipped records before the output. A kill between the two leaves them under their final name
        # although the run is unfinished. Give them their partial name again, or this run would lose them. If the journal
        # lists none, a file of that name belongs to an earlier, finished output.
        listed = any(n_skipped for _, _, _, n_skipped, *_ in self._entries())
        if listed and self.skipped.exists() and not self.partial_skipped.exists():
            os.replace(self.skipped, self.partial_skipped)
        out, skipped = _lines(self.partial), _lines(self.partial_skipped)
        kept = {self.journal: 0, self.partial: 0, self.partial_skipped: 0}  # bytes of each file that stay
        for line, digest, n_out, n_skipped, *tokens, seconds in self._entries():
            mine = [len(o) for o in islice(out, n_out)], [len(s) for s in islice(skipped, n_skipped)]
            # Missing lines. Records are written before their journal line, so a killed process cannot cause this, but a
            # crash of the machine can.
            if len(mine[0]) < n_out or len(mine[1]) < n_skipped:
                break
            kept[self.journal] += len(line)
            kept[self.partial] += sum(mine[0])
            kept[self.partial_skipped] += sum(mine[1])
            self.done.append(digest)
            self.counts.add(n_out, n_skipped, tokens)
            self.counts.seconds = seconds
        # Everything after `kept` belongs to records that the journal does not list. They are generated again, so it must go.
        # It is cut off, not overwritten, because the next attempt may give fewer bytes.
        for path, size in kept.items():
            if path.exists():
                os.truncate(path, size)

    def written(self) -> Iterator[Record]:
        """The records of the unfinished output so far."""
        return (json.loads(line) for line in _lines(self.partial))

    def write(self, digest: str, outputs: list[Record], skipped: list[Record], tokens: Tokens) -> None:
        """Write everything that one input record gave, and its journal line. CaiError if the disk is full, for example."""
        counts = self.counts
        try:
            if outputs:
                _write_all(self.out, b"".join(map(jsonl.encode, outputs)))
            if skipped:
                with self.partial_skipped.open("ab", buffering=0) as stream:
                    _write_all(stream, b"".join(map(jsonl.encode, skipped)))
            counts.seconds = round(time.monotonic() - self._began, 3)
            line = jsonl.encode([digest, len(outputs), len(skipped), *tokens, counts.seconds])
            _write_all(self.log, line)
        except OSError as problem:
            raise _failed(self.partial, problem) from None
        counts.add(len(outputs), len(skipped), tokens)

    def finish(self, content: Manifest) -> None:
        """Write the manifest and give the files their final names."""
        try:
            self.out.flush()
            os.fsync(self.out.fileno())
            digest = manifest.hash_file(self.partial)
            manifest.write(f"{self.path}.manifest.json", {**content, "output": {"path": str(self.path), "sha256": digest}})
            if not self.counts.skipped:
                self.partial_skipped.unlink(missing_ok=True)
                self.skipped.unlink(missing_ok=True)
            elif self.partial_skipped.exists():
                os.replace(self.partial_skipped, self.skipped)
            order = Path(f"{self.path}.order")
            order.unlink(missing_ok=True)
            if "shard" in content:
                manifest.write_atomic(order, self.journal.read_bytes())
            # The last rename: after a kill at any point before it, the same command finishes the work.
            os.replace(self.partial, self.path)
            self.partial_manifest.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)
        except OSError as problem:
            raise _failed(self.path, problem) from None

    def reasons(self) -> Counter[str]:
        """How often each reason for skipping occurred. Call it after `finish`."""
        return skip_reasons(str(self.path))

    def close(self) -> None:
        """Close the files and release the lock. Unfinished work stays for the next run."""
        self.out.close()
        self.log.close()

    def how_to_continue(self) -> str:
        """A clause for the message of an interrupted run."""
        done = plural(self.counts.records_in, "finished record")
        return f"{self.partial} holds {done}; the same command continues from there"


class StreamOutput:
    """Standard output, a device or a named pipe. It cannot resume. The manifest goes to `manifest_path`, if there is one."""

    def __init__(self, stream: IO[bytes], manifest_path: str | None = None) -> None:
        self.stream, self.manifest_path = stream, manifest_path
        self.counts = Counts()
        self.done: list[str] = []
        self._reasons: Counter[str] = Counter()
        self._sha, self._began = sha256(), time.monotonic()

    def written(self) -> Iterator[Record]:
        """No records: what was written cannot be read again."""
        return iter(())

    def write(self, digest: str, outputs: list[Record], skipped: list[Record], tokens: Tokens) -> None:
        """Write everything that one input record gave. Skipped records are only counted."""
        data = b"".join(map(jsonl.encode, outputs))
        self._sha.update(data)
        try:
            _write_all(self.stream, data)
        except BrokenPipeError:  # the reader has gone; the command ends without a message
            raise
        except OSError as problem:
            raise _failed("standard output", problem) from None
        counts = self.counts
        self._reasons.update(entry["error"] for entry in skipped)
        counts.add(len(outputs), len(skipped), tokens)
        counts.seconds = round(time.monotonic() - self._began, 3)

    def finish(self, content: Manifest) -> None:
        """Write the manifest to the path of --manifest, if it was given."""
        if self.manifest_path:
            manifest.write(self.manifest_path, {**content, "output": {"path": "-", "sha256": self._sha.hexdigest()}})

    def reasons(self) -> Counter[str]:
        """How often each reason for skipping occurred."""
        return self._reasons

    def close(self) -> None:
        """Close the stream, so that the next command in the pipe sees its end."""
        with suppress(BrokenPipeError):
            self.stream.close()

    def how_to_continue(self) -> str:
        """A clause for the message of an interrupted run."""
        return f"{self.counts.records_out} records were written; use -o FILE to be able to continue"


def count_fields(counts: Counts) -> dict[str, float]:
    """The counts as a manifest holds them."""
    return asdict(counts)


def source(path: str) -> dict[str, str | None]:
    """An input as a manifest names it: its path, and the SHA-256 of its bytes (None for a pipe)."""
    return {"path": path, "sha256": manifest.hash_file(path) if Path(path).is_file() else None}


def open_stream(path: str) -> IO[bytes] | None:
    """An unbuffered stream if `path` is - or names a device or a pipe. None if it names an ordinary file."""
    if path == "-":
        return streams.claim_stdout()
    special = Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir()
    return open(path, "wb", buffering=0) if special else None


def open_output(path: str, fingerprint: Manifest, restart: bool, manifest_path: str | None) -> FileOutput | StreamOutput:
    """The output of a step. Descriptor 1 is claimed either way, so that no library can write among the records."""
    stream = open_stream(path)
    if path != "-":
        streams.claim_stdout().close()
    return StreamOutput(stream, manifest_path) if stream else FileOutput(path, fingerprint, restart)


def finished(path: str, step: str, fingerprint: Manifest) -> Manifest | None:
    """The manifest of a finished output that a run with this fingerprint made; None if the output must be made.

    Warns if a run with another fingerprint made the output, which is then replaced. The fingerprint of a pipe does not say
    what it held, so an output made from a pipe is always made again.
    """
    if not Path(path).is_file() or Path(f"{path}.partial").exists():
        return None
    made = manifest.of_same_run(f"{path}.manifest.json", step, path, fingerprint)
    return made if fingerprint["input"] is not None else None


def settle(path: str) -> None:
    """Remove what a run leaves that is killed after its last rename, and give the output the current time, for `make`."""
    for kind in ("journal", "manifest.json"):
        Path(f"{path}.partial.{kind}").unlink(missing_ok=True)
    manifest.touch(path)


def skip_reasons(path: str) -> Counter[str]:
    """How often each reason occurs among the skipped records of a finished output."""
    return Counter(json.loads(line)["error"] for line in _lines(Path(f"{path}.skipped.jsonl")))


def require_output(name: str, counts: Counts, reasons: Counter[str], output: str) -> None:
    """CaiError if every record was skipped: a script must not continue with nothing. `reasons`: how often each occurred."""
    if counts.skipped and not counts.records_out:
        (reason, times), *_ = reasons.most_common(1) or [("unknown", counts.skipped)]
        see = f"; see {output}.skipped.jsonl" if Path(f"{output}.skipped.jsonl").is_file() else ""
        raise CaiError(f"{name}: every record was skipped{see}; most frequent reason ({times:,} of {counts.skipped:,}): {reason}")


def _require_no_directory(path: str | Path) -> None:
    if Path(path).is_dir():
        raise InputError(f"{path}: is a directory; -o takes a file name")


def _written_to_stream(path: str, parts: Iterable[bytes]) -> bool:
    """Write the parts if `path` is a stream. Returns whether it is one. InputError if it is a directory."""
    _require_no_directory(path)
    if (stream := open_stream(path)) is None:
        return False
    with stream:
        for part in parts:
            _write_all(stream, part)
    return True


def write_text(path: str, text: str) -> None:
    """Write a text to a file that appears only when complete, or to stdout or a device. No manifest."""
    if _written_to_stream(path, [text.encode()]):
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        manifest.write_atomic(path, text.encode())
    except OSError as problem:
        raise _failed(path, problem) from None


def write_file(path: str, lines: Iterable[bytes], about: Manifest, skipped: Sequence[Record] = ()) -> None:
    """Write whole lines to a file that appears only when complete, with a manifest beside it; or to stdout or a device.

    For steps that need no model: they are quick, so they cannot resume. `skipped` goes to OUT.skipped.jsonl. `about` and
    `skipped` are read after the last line, so the iterator of the lines may still fill them.
    """
    if _written_to_stream(path, lines):
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
        beside = Path(f"{path}.skipped.jsonl")
        beside.unlink(missing_ok=True)
        if skipped:
            manifest.write_atomic(beside, b"".join(map(jsonl.encode, skipped)))
        os.replace(partial, path)
    except OSError as problem:
        raise _failed(path, problem) from None
