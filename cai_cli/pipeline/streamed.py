"""Records written to a stream, and what writing to a stream and to a file have in common."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from cai_cli import streams
from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.errors import CaiError
from cai_cli.pipeline import manifest
from cai_cli.pipeline.ahead import Ahead
from cai_cli.pipeline.disk import STDOUT, failed, write_all
from cai_cli.pipeline.manifest import Manifest

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
        self.cached_calls += tokens[3]


BUFFER, DELAY = 2**16, 0.1
"""Records are given to the operating system when they have so many bytes, or so many seconds after the ones before."""


class StreamOutput:
    """Standard output, a device or a named pipe. It cannot resume. The manifest goes to `manifest_path`, if there is one."""

    def __init__(self, stream: IO[bytes], manifest_path: str | None = None) -> None:
        self.stream, self.manifest_path = stream, manifest_path
        self.counts = Counts()
        self.done, self.last, self.ahead = 0, "", Ahead(None)
        self._reasons: Counter[str] = Counter()
        self._sha, self._began, self._flushed = sha256(), time.monotonic(), time.monotonic()
        self._buffer, self._broken = bytearray(), False

    def digests(self) -> Iterator[str]:
        """None: there is no earlier run."""
        return iter(())

    def written(self) -> Iterator[Record]:
        """No records: what was written cannot be read again."""
        return iter(())

    def write(self, digest: str, outputs: list[Record], skipped: list[Record], tokens: Tokens) -> None:
        """Write everything that one input record gave. Skipped records are only counted."""
        counts, now = self.counts, time.monotonic()
        self._buffer += b"".join(map(jsonl.encode, outputs))
        self._reasons.update(entry["error"] for entry in skipped)
        counts.add(len(outputs), len(skipped), tokens)
        counts.seconds = round(now - self._began, 3)
        if len(self._buffer) > BUFFER or now - self._flushed > DELAY:
            self.flush()

    def flush(self) -> None:
        """Give everything to the reader. BrokenPipeError if it has gone."""
        buffer, self._buffer = self._buffer, bytearray()  # emptied first: what a signal interrupts is not written again
        if self._broken:
            return
        self._broken = True
        self._sha.update(buffer)
        try:
            write_all(self.stream, buffer)
        except BrokenPipeError:  # the command ends without a message
            raise
        except OSError as problem:
            raise failed(STDOUT, problem) from None
        self._broken = False
        self._flushed = time.monotonic()

    def finish(self, content: Manifest) -> None:
        """Write what is left, and the manifest to the path of --manifest, if it was given."""
        self.flush()
        if self.manifest_path:
            try:
                manifest.write(self.manifest_path, {**content, "output": {"path": "-", "sha256": self._sha.hexdigest()}})
            except OSError as problem:
                raise failed(self.manifest_path, problem) from None

    def reasons(self) -> Counter[str]:
        """How often each reason for skipping occurred."""
        return self._reasons

    def close(self) -> None:
        """Close the stream, so that the next command in the pipe sees its end."""
        with suppress(BrokenPipeError, CaiError):
            self.flush()
        with suppress(BrokenPipeError):
            self.stream.close()

    def how_to_continue(self) -> str:
        """A clause for the message of an interrupted run."""
        return f"{self.counts.records_out} records were written; use -o FILE to be able to continue"


def open_stream(path: str) -> IO[bytes] | None:
    """An unbuffered stream if `path` is - or names a device or a pipe. None if it names an ordinary file."""
    if path == "-":
        return streams.claim_stdout()
    special = Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir()
    return open(path, "wb", buffering=0) if special else None
