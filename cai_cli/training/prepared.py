"""Examples on disk: made once per machine, in parallel, as an Arrow file that every process of a run maps into its memory.

    cai/examples/KEY/examples.arrow   in XDG_CACHE_HOME or ~/.cache: the examples, and the reasons for what gave none
    cai/examples/KEY/counts.json      what else is known about the files

KEY is a hash of the files' contents, of the options, of the tokenizers, and of the code that makes examples. An entry that was
not used for a month is removed. The directory may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, get_type_hints

import cai_cli
from cai_cli import streams
from cai_cli.data import durable, jsonl
from cai_cli.data.ids import Ids
from cai_cli.data.jsonl import Record
from cai_cli.data.records import digest
from cai_cli.engines import adapters
from cai_cli.engines.worker import end_with_parent
from cai_cli.errors import InputError, Skipped
from cai_cli.pipeline import manifest
from cai_cli.pipeline.inputs import Check, line_error, skipped_entry
from cai_cli.training import ranks
from cai_cli.training.workspace import disk_errors

if TYPE_CHECKING:
    import pyarrow as pa

P = TypeVar("P")
T = TypeVar("T")
CHUNK = 256
"""Lines per task of a process."""
PARALLEL = 4 * 2**20
"""Bytes of input from which on several processes make the examples."""
_TOKENIZER = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""The endings of the files that make a tokenizer and its template."""
UNUSED = 30 * 86400
"""Seconds after which an unused entry is removed."""


@dataclass(frozen=True)
class Recipe(Generic[P, T]):
    """How a trainer makes its examples."""

    check: Check
    """What is wrong with a record, or None."""
    parts: Callable[[Record], Sequence[P]]
    """The parts of a record, each of which becomes an example. Raises `Skipped`."""
    make: Callable[[P], T]
    """The example of a part: a TypedDict. Raises `Skipped`."""
    kind: type
    """That TypedDict."""
    size: Callable[[T], int]
    """The tokens of an example."""


class Source(NamedTuple):
    """A file to make examples of."""

    path: str
    sha256: str
    limit: int | None


class _Item(NamedTuple):
    """A line on its way to a process."""

    file: int
    line: int
    record: Record | None
    skipped: Record | None
    """The entry of a bad line."""


def cache() -> Path:
    """The directory of all prepared examples."""
    return adapters.user_cache() / "examples"


def key(sources: Iterable[Source], skip_bad: bool, options: object, folders: Iterable[Path]) -> str:
    """The name of an entry. `options`: whatever else the examples depend on. `folders`: the models whose tokenizers are used."""
    package = Path(cai_cli.__file__).parent
    code = [path for room in ("data", "method", "training") for path in sorted((package / room).glob("*.py"))]
    code += [package / "engines" / "models.py", package / "pipeline" / "inputs.py"]
    tokenizers = [
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TOKENIZER and not path.name.startswith("manifest")
    ]
    hashes = [manifest.hash_file(path) for path in (*code, *tokenizers)]
    # some templates write today's date
    dated = any(b"strftime_now" in path.read_bytes() for path in tokenizers if path.suffix in (".json", ".jinja"))
    files = [[source.sha256, source.limit] for source in sources]
    versions = manifest.versions() | {name: version(name) for name in ("tokenizers", "jinja2")}
    return digest([files, skip_bad, options, hashes, versions, str(date.today()) if dated else None], 16)


def prepared(
    name: str, sources: Sequence[Source], recipe: Recipe[P, T], skip_bad: bool, progress: Callable[[], streams.Progress]
) -> Path:
    """The directory of the entry `name`. The first process that asks for it makes it; the others wait."""
    root, target = cache(), cache() / name
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with disk_errors(root), open(root / f"{name}.lock", "wb") as lock:
        first = ranks.is_first_here() and _took(lock)
        ranks.wait()  # the first process of this machine, which shows the progress, makes them
        if not first:
            _wait(lock)
        if not target.exists():
            _remove_unused(root)
            partial = Path(tempfile.mkdtemp(dir=root, prefix="partial-"))
            try:
                build(sources, recipe, skip_bad, partial, progress())
                for source in sources:
                    if manifest.hash_file(source.path) != source.sha256:
                        raise InputError(f"{source.path}: was changed while it was read; run the command again")
                durable.replace(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        os.utime(target)
    return target


def _took(lock: IO[bytes]) -> bool:
    """Take the lock, unless another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(lock: IO[bytes]) -> None:
    """Take the lock, with a message if another process has it."""
    if not _took(lock):
        streams.say("cai: waiting for another process, which prepares the same examples")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _remove_unused(root: Path) -> None:
    """Remove old entries. Another command may do the same at this moment."""
    for path in root.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > UNUSED:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def build(sources: Sequence[Source], recipe: Recipe[P, T], skip_bad: bool, folder: Path, progress: streams.Progress) -> None:
    """Make the examples of every file. The memory does not grow with the files, except for 150 bytes per record for its id."""
    import pyarrow as pa

    counts: dict[str, Any] = {"lines": [0] * len(sources), "bad": 0, "preferences": 0}

    def chunks() -> Iterator[list[_Item]]:
        items = _items(sources, recipe.check, skip_bad)
        while chunk := list(islice(items, CHUNK)):
            for item in chunk:
                counts["lines"][item.file] += item.record is not None
                counts["bad"] += item.record is None
                counts["preferences"] += item.record is not None and "chosen" in item.record
            yield chunk

    bytes_in = sum(os.path.getsize(source.path) for source in sources)
    processes = len(os.sched_getaffinity(0)) if bytes_in > PARALLEL and hasattr(os, "sched_getaffinity") else 1
    with pa.OSFile(str(folder / "examples.arrow"), "wb") as file, pa.ipc.new_stream(file, schema(recipe.kind)) as stream:
        for batch in _in_order(recipe, chunks(), processes):
            stream.write_batch(batch)
            progress.advance(batch.num_rows, sum(filter(None, batch.column("tokens").to_pylist())))
    progress.close()
    manifest.write(folder / "counts.json", counts)


def _items(sources: Sequence[Source], check: Check, skip_bad: bool) -> Iterator[_Item]:
    """Every line of every file, checked. InputError at the first bad one, unless `skip_bad`."""
    for number, source in enumerate(sources):
        ids = Ids()
        for line in islice(jsonl.read_lines(source.path), source.limit):
            error = line_error(line, check, ids)
            if error is None:
                yield _Item(number, line.number, line.record, None)
            elif skip_bad:
                yield _Item(number, line.number, None, skipped_entry(line, error))
            else:  # the check before the run has passed, so the file has just been changed
                raise jsonl.bad_line(source.path, line.number, error)


_recipe: Any = None
"""The recipe of this process's tasks. Processes are forked, so that it need not be sent to them."""


def _in_order(recipe: Recipe[P, T], chunks: Iterator[list[_Item]], processes: int) -> Iterator[pa.RecordBatch]:
    """The batches of all chunks, in order, with at most two chunks per process on their way."""
    global _recipe
    if processes == 1:
        yield from (batch_of(recipe, chunk) for chunk in chunks)
        return
    _recipe, waiting = recipe, deque[Future[Any]]()
    with ProcessPoolExecutor(processes, get_context("fork"), end_with_parent) as pool:
        for chunk in chunks:
            waiting.append(pool.submit(_task, chunk))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    _recipe = None


def _task(chunk: list[_Item]) -> pa.RecordBatch:
    return batch_of(_recipe, chunk)


def _types() -> dict[Any, pa.DataType]:
    import pyarrow as pa

    return {list[int]: pa.list_(pa.int32()), float: pa.float64(), str: pa.string(), bool: pa.bool_()}


def fields_of(kind: type) -> dict[str, bool]:
    """The fields of an example, and whether each is JSON in the table, because Arrow has no type for it."""
    return {name: hint not in _types() for name, hint in get_type_hints(kind).items()}


def schema(kind: type) -> pa.Schema:
    """The columns: the place and the id of a row's record, and the fields of its example, or why there is none."""
    import pyarrow as pa

    fields = {name: _types().get(hint, pa.string()) for name, hint in get_type_hints(kind).items()}
    own = {"file": pa.int16(), "line": pa.int64(), "record_id": pa.string(), "origin": pa.string(), "source": pa.string(),
           "tokens": pa.int32(), "skipped": pa.string()}  # fmt: skip
    return pa.schema(own | fields)


def batch_of(recipe: Recipe[P, T], chunk: list[_Item]) -> pa.RecordBatch:
    """The rows of a chunk: one per example, and one per line or part that gave none."""
    import pyarrow as pa

    columns = schema(recipe.kind)
    fields = fields_of(recipe.kind)
    rows = [row for item in chunk for row in _rows(recipe, fields, item)]
    return pa.RecordBatch.from_pylist(rows, columns)


def _rows(recipe: Recipe[P, T], fields: dict[str, bool], item: _Item) -> Iterator[Record]:
    """The rows of one line."""
    place: Record = {"file": item.file, "line": item.line}
    if item.record is None:
        yield place | {"skipped": jsonl.dumps(item.skipped)}
        return
    record = item.record
    place |= {
        "record_id": record["id"],
        "origin": str(record.get("source_id") or record["id"]),
        "source": str(record.get("mixed_from") or ""),
    }

    def skipped(reason: str) -> Record:
        return place | {"skipped": jsonl.dumps({"line": item.line, "error": reason, "record": record})}

    try:
        parts = recipe.parts(record)
    except Skipped as reason:
        yield skipped(str(reason))
        return
    for number, part in enumerate(parts, 1):
        try:
            example: Any = recipe.make(part)
        except Skipped as reason:
            yield skipped(f"round {number}: {reason}" if len(parts) > 1 else str(reason))
            continue
        cells = {name: json.dumps(example.get(name)) if nested else example.get(name) for name, nested in fields.items()}
        yield place | {"tokens": recipe.size(example)} | cells
