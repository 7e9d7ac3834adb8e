"""Shards: a run that processes only its part of an input, and the files of all parts joined again.

A record's shard is a hash of its id alone, so it is the same for every step and seed. A shard's finished output has a file
OUT.order beside it: its journal, in which each input line's digest begins with the line's number. `merge` restores the order
of the input from these numbers, whether a record gave no line, one or several; it needs neither the input nor the ids.
"""

from __future__ import annotations

import heapq
import os
import resource
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from cai_cli import streams
from cai_cli.data import jsonl
from cai_cli.data.ids import Ids
from cai_cli.data.jsonl import Line
from cai_cli.errors import InputError
from cai_cli.pipeline import journal, manifest
from cai_cli.pipeline.inputs import Check, line_error
from cai_cli.pipeline.manifest import Manifest
from cai_cli.pipeline.seeds import draw

NAMED = 20
"""The most missing shards that a message names."""
Shard = tuple[int, int]
"""(I, N): part I of N, from 1."""


def parse(text: str) -> Shard:
    """The shard that --shard names. InputError if it names none."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise InputError(f"--shard {text}: give I/N, where I is from 1 to N; for example 2/7")
    return int(part), int(parts)


def from_slurm() -> str | None:
    """The shard of this task of a Slurm array as I/N, said on stderr; None outside of an array.

    InputError if the array's ids are no even sequence, because N cannot be assigned then.
    """
    names = ("ID", "COUNT", "MIN", "STEP")
    task, total, first, step = (os.environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in names)
    if not task.isdecimal() or not total.isdecimal():
        return None
    part, rest = divmod(int(task) - int(first or 0), int(step or 1))
    if rest or not 0 <= part < int(total):
        raise InputError(f"SLURM_ARRAY_TASK_ID is {task}, but the array has {total} tasks from {first or 0}; give --shard I/N")
    streams.say(f"shard {part + 1}/{total}, from SLURM_ARRAY_TASK_ID; --shard 1/1 takes all records")
    return f"{part + 1}/{total}"


def select(lines: Iterable[Line], shard: str | None, check: Check) -> Iterator[Line]:
    """The lines of a shard; all of them if `shard` is None. Records get the ids that they have in the whole input.

    A bad line belongs to the shard of its id, and without an id to that of its number, so exactly one shard reports it.
    """
    if shard is None:
        yield from lines
        return
    (part, parts), ids = parse(shard), Ids()
    for line in lines:
        line_error(line, check, ids)
        name = (line.record or {}).get("id")
        if draw("shard", name if isinstance(name, str) else line.number) % parts == part - 1:
            yield line


def require_set(paths: list[str]) -> list[tuple[str, Manifest]]:
    """The shards of one run in their order, each with its manifest. InputError unless there are N of N, each once."""
    found: dict[int, tuple[str, Manifest]] = {}
    for path in paths:
        made = _finished(path)
        part, parts = parse(made["shard"])
        same = {**made["fingerprint"], "shard": None}
        first = next(iter(found.values()), (path, made))
        old = {**first[1]["fingerprint"], "shard": None}
        if changed := manifest.changes(old, same):
            raise InputError(f"{path} is of another run than {first[0]}: {'; '.join(changed)}; give the shards of one run")
        if parts != parse(first[1]["shard"])[1]:
            raise InputError(f"{path} is shard {made['shard']}, and {first[0]} is {first[1]['shard']}; give shards of one N")
        if part in found:
            raise InputError(f"{path} and {found[part][0]} are both shard {made['shard']}; give each shard once")
        found[part] = path, made
    if len(found) < parts:
        first_missing = islice((str(part) for part in range(1, parts + 1) if part not in found), NAMED)
        more = ", ..." if parts - len(found) > NAMED else ""
        names = ", ".join(first_missing) + more
        raise InputError(f"missing of {parts} shards: {names}; run them with --shard I/{parts}, then join again")
    return [found[part] for part in sorted(found)]


def _finished(path: str) -> Manifest:
    if Path(f"{path}.partial").exists() or path.endswith(".partial"):
        raise InputError(f"{path}: the shard is unfinished; run its command again, then join again")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; run the shard's command, then join again")
    beside = Path(f"{path}.manifest.json")
    made = manifest.read(beside) if beside.is_file() else {}
    if not {"step", "shard", "fingerprint", "counts", "output"} <= made.keys() or not Path(f"{path}.order").is_file():
        raise InputError(f"{path}: no shard, or without its .manifest.json and .order; give the files that --shard I/N made")
    if manifest.hash_file(path) != made["output"].get("sha256"):
        raise InputError(f"{path}: was edited after it was made; make it again with --restart, then join again")
    return made


def merge(paths: list[str], skipped: bool = False) -> Iterator[bytes]:
    """The lines of the shards' outputs, or of their skipped records, in the order of the input."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * len(paths) + 256  # all are read at the same time, besides what else is open
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard))
    for _, lines in heapq.merge(*(_groups(path, skipped) for path in paths), key=lambda group: group[0]):
        yield from lines


def _groups(path: str, skipped: bool) -> Iterator[tuple[int, list[bytes]]]:
    """Per input line: (its number, the lines of the file that it gave)."""
    held = Path(f"{path}.skipped.jsonl" if skipped else path)
    with open(f"{path}.order", "rb") as order, open(held if held.exists() else os.devnull, "rb") as stream:
        for line, entry in enumerate(iter(partial(order.readline, journal.LONGEST), b""), 1):
            found = journal.ENTRY.fullmatch(entry)
            number, colon, _ = found[1].partition(b":") if found else (b"", b"", b"")
            if not found or not colon:
                remedy = "; make the shard again with --restart"
                raise jsonl.bad_line(f"{path}.order", line, "not an entry of a shard's order", remedy)
            wanted = int(found[3 if skipped else 2])
            lines = list(islice(stream, wanted))
            if len(lines) != wanted:
                raise _damaged(path, held)
            yield int(number), lines
        if next(stream, None):
            raise _damaged(path, held)


def _damaged(path: str, held: Path) -> InputError:
    return InputError(f"{held}: does not hold the lines that {path}.order lists; make the shard again with --restart")
