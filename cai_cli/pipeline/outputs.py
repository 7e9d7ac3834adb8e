"""Where a step's records go: a file that appears only when complete, or standard output.

    OUT.partial                 the records so far, in input order
    OUT.partial.journal         one line per input record: its digest, and what it gave and took (`pipeline.journal`)
    OUT.partial.manifest.json   the fingerprint of the run, from the start
    OUT.partial.ahead           finished records that wait for an unfinished one before them (`pipeline.ahead`)
    OUT.skipped.jsonl.partial   the skipped records, with their reasons
    OUT.order                   of a shard: the finished journal, from which `cai join` restores the order of the input

Records are written before their journal line, so after a kill the journal never lists more records than the files hold. A
resumed run cuts each file back to the records that the journal lists (or the journal, if a file lost records) and continues.
At the end the manifest is written and OUT.partial is renamed to OUT.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from itertools import islice
from pathlib import Path

from cai_cli import streams
from cai_cli.data import durable, jsonl
from cai_cli.data.jsonl import Record
from cai_cli.errors import CaiError, InputError
from cai_cli.pipeline import journal, manifest
from cai_cli.pipeline.ahead import Ahead
from cai_cli.pipeline.disk import STDOUT, complete_lines, failed, locked, write_all
from cai_cli.pipeline.manifest import Manifest
from cai_cli.pipeline.streamed import BUFFER, DELAY, Counts, StreamOutput, Tokens, open_stream
from cai_cli.streams import plural

_DECODE = json.JSONDecoder().decode
"""Faster than `json.loads`, which first guesses the encoding."""


class FileOutput:
    """OUT, written as OUT.partial and renamed when complete. Resumes its own unfinished work."""

    def __init__(self, path: str, fingerprint: Manifest, restart: bool = False, source: Manifest | None = None) -> None:
        """`source`: what `inputs.preflight` found, for a run that continues this one."""
        self.path = Path(path)
        self.partial = Path(f"{path}.partial")
        self.journal = Path(f"{path}.partial.journal")
        self.partial_manifest = Path(f"{path}.partial.manifest.json")
        self.manifest = Path(f"{path}.manifest.json")
        self.order = Path(f"{path}.order")
        self.skipped = Path(f"{path}.skipped.jsonl")
        self.partial_skipped = Path(f"{path}.skipped.jsonl.partial")
        self._ahead = Path(f"{path}.partial.ahead")
        self.counts = Counts()
        self.done = 0
        """How many input records an earlier run finished."""
        self.last = ""
        """The digest of the last of them."""
        self._buffers = {name: bytearray() for name in ("out", "skipped", "log")}
        self._flushed = time.monotonic()
        self._broken = False
        """Whether a `flush` began and did not end. Nothing is written after it."""
        _require_no_directory(path)
        try:
            durable.make_folder(self.path.parent)
            self._open(fingerprint, restart, source or {})
        except OSError as problem:
            raise failed(self.partial, problem) from None
        self._began = time.monotonic() - self.counts.seconds

    def _open(self, fingerprint: Manifest, restart: bool, source: Manifest) -> None:
        # A kill right after the last rename of `finish` leaves the journal and the fingerprint of a finished run: start over.
        stale = not self.partial.exists()
        lock = locked(self.partial)
        for path in (self.partial_manifest, self.manifest, self.order):
            manifest.remove_leftovers(path)
        resumable = self.partial_manifest.exists() and not restart and not stale
        if resumable:
            manifest.require_same(manifest.read(self.partial_manifest), fingerprint, str(self.partial))
            self._recover()
        else:
            lock.truncate(0)
            for path in (self.journal, self.partial_skipped, self._ahead):
                path.unlink(missing_ok=True)
            about = {"command": manifest.command_line(), "input": source}
            manifest.write(self.partial_manifest, {"fingerprint": fingerprint, **about})
        self.out, self.ahead = lock, Ahead(self._ahead)
        self.log = self.journal.open("ab", buffering=0)

    def _recover(self) -> None:
        """Cut the three files back to the last input record that all of them hold completely."""
        # `finish` renames the skipped records before the output. A kill between the two leaves them under their final name
        # although the run is unfinished. Give them their partial name again, or this run would lose them. If the journal
        # lists none, a file of that name belongs to an earlier, finished output.
        if self.skipped.exists() and not self.partial_skipped.exists() and journal.lists_skipped(self.journal):
            os.replace(self.skipped, self.partial_skipped)
        found = journal.read(self.journal, self.partial, self.partial_skipped)
        self.counts, self.done, self.last = found.counts, found.counts.records_in, found.last
        # Everything after that belongs to records that the journal does not list. They are generated again, so it must go.
        # It is cut off, not overwritten, because the next attempt may give fewer bytes.
        for path, size in zip((self.journal, self.partial, self.partial_skipped), found.sizes, strict=True):
            if path.exists():
                os.truncate(path, size)

    def digests(self) -> Iterator[str]:
        """The digests of the input records that an earlier run finished, in input order."""
        return islice(journal.digests(self.journal), self.done)

    def written(self) -> Iterator[Record]:
        """The records of the unfinished output so far."""
        return (_DECODE(line.decode()) for line in complete_lines(self.partial))

    def write(self, digest: str, outputs: list[Record], skipped: list[Record], tokens: Tokens) -> None:
        """Write everything that one input record gave, and its journal line. CaiError if the disk is full, for example."""
        counts, now = self.counts, time.monotonic()
        counts.seconds = round(now - self._began, 3)
        self._buffers["out"] += b"".join(map(jsonl.encode, outputs))
        self._buffers["skipped"] += b"".join(map(jsonl.encode, skipped))
        self._buffers["log"] += jsonl.encode([digest, len(outputs), len(skipped), *tokens, counts.seconds])
        counts.add(len(outputs), len(skipped), tokens)
        if len(self._buffers["out"]) > BUFFER or now - self._flushed > DELAY:
            self.flush()

    def flush(self) -> None:
        """Give everything to the operating system, each record before its journal line. CaiError if the disk is full."""
        # Emptied first: a signal or a full disk may end this anywhere, and nothing may be written twice. What the journal
        # then does not list is computed again.
        buffers, self._buffers = self._buffers, {name: bytearray() for name in self._buffers}
        if self._broken:
            return
        self._broken = True
        try:
            self.ahead.flush()
            write_all(self.out, buffers["out"])
            if buffers["skipped"]:
                with self.partial_skipped.open("ab", buffering=0) as stream:
                    write_all(stream, buffers["skipped"])
            write_all(self.log, buffers["log"])
        except OSError as problem:
            raise failed(self.partial, problem) from None
        self._broken = False
        self._flushed = time.monotonic()

    def finish(self, content: Manifest) -> None:
        """Write the manifest and give the files their final names."""
        self.flush()
        try:
            digest = manifest.hash_file(self.partial)
            manifest.write(self.manifest, {**content, "output": {"path": str(self.path), "sha256": digest}})
            if not self.counts.skipped:
                self.partial_skipped.unlink(missing_ok=True)
                self.skipped.unlink(missing_ok=True)
            elif self.partial_skipped.exists():
                durable.replace(self.partial_skipped, self.skipped)
            if "shard" in content:
                manifest.write_atomic(self.order, self.journal.read_bytes())
            else:
                self.order.unlink(missing_ok=True)
            # The last rename: after a kill at any point before it, the same command finishes the work.
            durable.replace(self.partial, self.path)
            self._ahead.unlink(missing_ok=True)
            self.partial_manifest.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)
        except OSError as problem:
            raise failed(self.path, problem) from None

    def reasons(self) -> Counter[str]:
        """How often each reason for skipping occurred. Call it after `finish`."""
        return skip_reasons(str(self.path))

    def close(self) -> None:
        """Close the files and release the lock. Unfinished work stays for the next run."""
        with suppress(CaiError):  # a full disk: it was reported, and what is not written is computed again
            self.flush()
        self.ahead.close()
        self.out.close()
        self.log.close()

    def how_to_continue(self) -> str:
        """A clause for the message of an interrupted run."""
        done = plural(self.counts.records_in, "finished record")
        return f"{self.partial} holds {done}; the same command continues from there"


def count_fields(counts: Counts) -> dict[str, float]:
    """The counts as a manifest holds them."""
    return asdict(counts)


def source(path: str) -> dict[str, str | None]:
    """An input as a manifest names it: its path, and the SHA-256 of its bytes (None for a pipe)."""
    return {"path": path, "sha256": manifest.hash_file(path) if Path(path).is_file() else None}


def open_output(
    path: str, fingerprint: Manifest, restart: bool, manifest_path: str | None, source: Manifest | None = None
) -> FileOutput | StreamOutput:
    """The output of a step. Descriptor 1 is claimed either way, so that no library can write among the records."""
    stream = open_stream(path)
    if path != "-":
        streams.claim_stdout().close()
    return StreamOutput(stream, manifest_path) if stream else FileOutput(path, fingerprint, restart, source)


def finished(path: str, step: str, fingerprint: Manifest) -> Manifest | None:
    """The manifest of a finished output that a run with this fingerprint made; None if the output must be made.

    Warns if a run with another fingerprint made the output, which is then replaced. The fingerprint of a pipe does not say
    what it held, so an output made from a pipe is always made again.
    """
    if not Path(path).is_file() or Path(f"{path}.partial").exists():
        return None
    made = manifest.of_same_run(f"{path}.manifest.json", step, path, fingerprint)
    whole = made is not None and {"counts", "output"} <= made.keys()
    return made if whole and fingerprint["input"] is not None else None


def begun(path: str, fingerprint: Manifest) -> Manifest:
    """What `inputs.preflight` found when an unfinished run with this fingerprint began; nothing if there is none."""
    beside = Path(f"{path}.partial.manifest.json")
    if not beside.is_file() or not Path(f"{path}.partial").is_file():
        return {}
    made = manifest.read(beside)
    same = made.get("fingerprint") == fingerprint and fingerprint["input"] is not None
    return jsonl.as_object(made.get("input")) if same else {}


def settle(path: str) -> None:
    """Remove what a run leaves that is killed after its last rename, and give the output the current time, for `make`."""
    for kind in ("journal", "ahead", "manifest.json"):
        Path(f"{path}.partial.{kind}").unlink(missing_ok=True)
    manifest.touch(path)


def skip_reasons(path: str) -> Counter[str]:
    """How often each reason occurs among the skipped records of a finished output."""
    return Counter(map(reason_of, complete_lines(Path(f"{path}.skipped.jsonl"))))


def reason_of(line: bytes) -> str:
    """The reason in a line of skipped records; "unknown" if somebody edited it away."""
    try:
        return str(json.loads(line)["error"])  # not jsonl.loads: the entry is nested one deeper than its record
    except (ValueError, TypeError, KeyError, RecursionError):
        return "unknown"


def say_summary(name: str, counts: Counts, output: str, quiet: bool) -> None:
    """Say what a step has made."""
    if counts.records_in == 0:
        streams.warn(f"{name}: the input is empty, and so the output is empty too")
    kept = Path(output).is_file()  # not standard output, nor a device
    if counts.skipped:
        where = f"; see {output}.skipped.jsonl" if kept else ""
        streams.warn(f"{name}: skipped {streams.plural(counts.skipped, 'record')}{where}")
    tokens = counts.prompt_tokens + counts.completion_tokens
    target = f" -> {output}" if kept else ""
    reused = f", {counts.reused_tokens:,} reused" if counts.reused_tokens else ""
    cached = f", {streams.plural(counts.cached_calls, 'answer')} from the cache" if counts.cached_calls else ""
    streams.say(
        f"cai {name}: {streams.plural(counts.records_out, 'record')}, {streams.plural(tokens, 'token')} "
        f"({counts.completion_tokens:,} generated{reused}){cached}, {counts.seconds:.1f} s{target}",
        quiet,
    )


def require_output(name: str, counts: Counts, reasons: Counter[str], output: str, shard: str | None = None) -> None:
    """CaiError if every record was skipped: a script must not continue with nothing. `reasons`: how often each occurred.

    One shard of several may have nothing but skipped records; then `cai join` checks all of them together.
    """
    if counts.skipped and not counts.records_out and (shard or "1/1").endswith("/1"):
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
            try:
                write_all(stream, part)
            except BrokenPipeError:
                raise
            except OSError as problem:
                raise failed(STDOUT if path == "-" else path, problem) from None
    return True


def write_text(path: str, text: str) -> None:
    """Write a text to a file that appears only when complete, or to stdout or a device. No manifest."""
    if _written_to_stream(path, [text.encode()]):
        return
    try:
        durable.make_folder(Path(path).parent)
        manifest.write_atomic(path, text.encode())
    except OSError as problem:
        raise failed(path, problem) from None


def write_file(path: str, lines: Iterable[bytes], about: Manifest, skipped: Iterable[bytes] = ()) -> None:
    """Write whole lines to a file that appears only when complete, with a manifest beside it; or to stdout or a device.

    For steps that need no model: they are quick, so they cannot resume. The lines `skipped` go to OUT.skipped.jsonl. `about`
    and `skipped` are read after the last line, so the iterator of the lines may still fill them.
    """
    if _written_to_stream(path, lines):
        return
    partial, beside, digest = Path(f"{path}.partial"), Path(f"{path}.skipped.jsonl"), sha256()
    try:
        durable.make_folder(partial.parent)
        with locked(partial) as lock, io.BufferedWriter(lock) as stream:
            lock.truncate(0)
            for name in (f"{path}.manifest.json", beside):
                manifest.remove_leftovers(name)
            for line in lines:
                digest.update(line)
                stream.write(line)
            stream.flush()
            made = {"command": manifest.command_line(), "finished": manifest.now(), "versions": manifest.versions()}
            content = {**about, **made, "output": {"path": path, "sha256": digest.hexdigest()}}
            manifest.write(f"{path}.manifest.json", content)
            beside.unlink(missing_ok=True)
            left = iter(skipped)
            if (first := next(left, None)) is not None:
                manifest.write_atomic(beside, first, left)
            durable.replace(partial, path)
    except OSError as problem:
        raise failed(path, problem) from None
