"""Answers of judges and scores of preference models, kept on disk by what decides them: the same request is computed once.

    cai/answers.sqlite   in XDG_CACHE_HOME or ~/.cache

The key of an answer is a SHA-256 over the request (its tokens, its options, and how its text is sampled) and over what computes
it: the hash of the model, the dtype, the engine, the versions of the libraries. The value holds the engine's numbers, bit for
bit. The file may be deleted at any time; CAI_NO_CACHE=1 leaves it alone. If it cannot be used, the work goes on without it.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from cai_cli import streams
from cai_cli.engines import adapters, models
from cai_cli.engines.base import Choice, Completion, Failure, Request, Result, Score

LARGEST = 2**30
"""Bytes that the file may have. The oldest answers are removed first."""
BATCH = 64
"""New answers per write."""
WAIT = 30.0
"""Seconds to wait for another process that is writing."""


@cache
def code() -> str:
    """A hash of the engines' code, which decides answers too."""
    return sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


def machine(deterministic: bool) -> list[Any]:
    """What an answer depends on besides the model and the request: the kind of device; with --deterministic also the machine."""
    if not deterministic:
        return [models.device()]
    import torch

    gpu = torch.cuda.get_device_name() if models.device() == "cuda" else ""
    return [models.device(), gpu, platform.node(), torch.get_num_threads()]


class Answers:
    """The kept answers for one model and engine."""

    def __init__(self, decides: object | None) -> None:
        """`decides`: what an answer depends on, besides the request (JSON). None: nothing is looked up or kept."""
        self.decides, self.new, self.db = json.dumps([decides, code()]), dict[bytes, str](), None
        if decides is None or os.environ.get("CAI_NO_CACHE", "0") not in ("", "0"):
            return
        self.path = adapters.user_cache() / "answers.sqlite"
        with self._or_without():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite would make it readable by others
            # Not in WAL mode, which a home directory on a network file system does not support.
            self.db = sqlite3.connect(self.path, timeout=WAIT, isolation_level="IMMEDIATE")
            self.db.execute("CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY, key BLOB UNIQUE, value TEXT)")

    @contextmanager
    def _or_without(self) -> Iterator[None]:
        """Go on without the file, with a warning, if it cannot be read or written, or does not hold what it should."""
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, TypeError) as problem:
            self.db = None
            streams.warn(f"{self.path}: could not be used ({problem}), so answers are not kept; if it is damaged, delete it")

    def _key(self, request: Request) -> bytes:
        sampled = [request.seed, request.max_tokens, request.temperature, request.top_p, request.stop]
        asked = [request.kind, request.options, request.shared, request.answer, sampled if request.kind == "generate" else None]
        return sha256(f"{self.decides}{json.dumps(asked)}".encode() + array("q", request.ids).tobytes()).digest()

    def get(self, request: Request) -> Result | None:
        """The answer to a request, if it is kept."""
        if self.db is None:
            return None
        key = self._key(request)
        with self._or_without():
            row = self.db.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
            value = self.new.get(key) or (row and row[0])
            return _result(request, json.loads(value)) if value else None
        return None

    def put(self, request: Request, result: Result) -> None:
        """Keep an answer. A failure is none."""
        if self.db is not None and not isinstance(result, Failure):
            self.new[self._key(request)] = json.dumps(_value(result))
            if len(self.new) >= BATCH:
                self._write()

    def _write(self) -> None:
        """Write the new answers, and remove the oldest if the file is too large."""
        rows, self.new = list(self.new.items()), {}
        with self._or_without():
            assert self.db is not None
            with self.db as db:
                db.executemany("INSERT OR IGNORE INTO answers (key, value) VALUES (?, ?)", rows)
                oldest = "DELETE FROM answers WHERE number IN (SELECT number FROM answers ORDER BY number LIMIT 1000)"
                while self._bytes() > LARGEST and db.execute(oldest).rowcount:
                    pass

    def _bytes(self) -> int:
        """The bytes that are in use in the file."""
        assert self.db is not None
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (self.db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return int((pages - free) * size)

    def close(self) -> None:
        """Write what is left."""
        if self.db is not None and self.new:
            self._write()
        if self.db is not None:
            self.db.close()
            self.db = None


def _value(result: Completion | Choice | Score) -> Any:
    """A result as JSON, in which a float is exact; what follows from the request is left out."""
    if isinstance(result, Choice):
        return list(result.logprobs.values())
    return result.score if isinstance(result, Score) else [result.text, result.finish, list(result.tokens)]


def _result(request: Request, value: Any) -> Result:
    """The result that `_value` stored. None of its prompt is computed again."""
    length = len(request.ids)
    if request.kind == "choose":
        return Choice(dict(zip(request.options or {}, value, strict=True)), length, reused_tokens=length)
    if request.kind == "score":
        return Score(float(value), length, reused_tokens=length)
    text, finish, tokens = value
    return Completion(text, finish, request.seed, length, len(tokens), length, tuple(tokens))
