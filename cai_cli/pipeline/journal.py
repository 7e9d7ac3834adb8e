"""The journal of an output that is being made, and what an interrupted run left of the output.

One line per input record: ["digest", output lines, skipped lines, prompt tokens, completion tokens, reused tokens, cached calls,
seconds so far]. It is read many lines at a time: a run of a million records must continue within seconds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path

from cai_cli.pipeline.disk import complete_lines
from cai_cli.pipeline.streamed import Counts

LINES = 4096
"""How many lines are read at a time."""
LONGEST = 1024
"""Bytes of a line. What is longer is none of a journal."""
_NUMBER = rb"(\d{1,18}), ?"
ENTRY = re.compile(rb'^\["((?:\d{1,18}:)?[0-9a-z]{1,16})", ?' + 6 * _NUMBER + rb"(\d{1,18}\.\d{1,18})\]\n", re.MULTILINE)


@dataclass
class Found:
    """What an interrupted run finished."""

    counts: Counts = field(default_factory=Counts)
    last: str = ""
    """The digest of the last input record."""
    sizes: tuple[int, int, int] = (0, 0, 0)
    """Bytes of the journal, of the output and of the skipped records that belong to finished input records."""


def batches(journal: Path) -> Iterator[tuple[list[bytes], list[tuple[bytes, ...]]]]:
    """(lines, what `ENTRY` finds in each), up to a torn line, which a crash of the machine may leave anywhere."""
    source = complete_lines(journal, LONGEST)
    while lines := list(islice(source, LINES)):
        entries = ENTRY.findall(b"".join(lines))
        if len(entries) < len(lines):
            good = next(i for i, line in enumerate(lines) if not ENTRY.fullmatch(line))
            yield lines[:good], entries[:good]
            return
        yield lines, entries


def digests(journal: Path) -> Iterator[str]:
    """The digests of the input records, in input order."""
    return (entry[0].decode() for _, entries in batches(journal) for entry in entries)


def lists_skipped(journal: Path) -> bool:
    """Whether a record was skipped."""
    return any(int(entry[2]) for _, entries in batches(journal) for entry in entries)


def read(journal: Path, partial: Path, skipped: Path) -> Found:
    """What the journal lists and the two other files hold.

    Records are written before their journal line, so a killed process loses no line, but a crash of the machine can.
    """
    found = Found()
    held = complete_lines(partial), complete_lines(skipped)
    for lines, entries in batches(journal):
        wanted = [list(map(int, column)) for column in list(zip(*entries, strict=True))[1:3]]
        sizes = [list(map(len, islice(file, min(sum(each), sys.maxsize)))) for file, each in zip(held, wanted, strict=False)]
        whole = all(sum(each) == len(size) for each, size in zip(wanted, sizes, strict=False))
        number = len(lines) if whole else _complete(wanted, [len(size) for size in sizes])
        if number:
            _count(found, lines[:number], entries[:number], sizes)
        if number < len(lines):
            break
    return found


def _complete(wanted: list[list[int]], have: list[int]) -> int:
    """How many records have all their lines."""
    number, totals = 0, zip(*map(accumulate, wanted), strict=True)
    while all(total <= most for total, most in zip(next(totals), have, strict=True)):
        number += 1
    return number


def _count(found: Found, lines: list[bytes], entries: list[tuple[bytes, ...]], sizes: list[list[int]]) -> None:
    """Add records. `sizes`: of the lines of the output, and of the skipped records, from the first of these on."""
    digests, *columns, seconds = zip(*entries, strict=True)
    out, skipped, *tokens = (sum(map(int, column)) for column in columns)
    counts = found.counts
    counts.add(out, skipped, tokens)
    counts.records_in += len(entries) - 1
    found.last, counts.seconds = digests[-1].decode(), float(seconds[-1])
    before = found.sizes
    found.sizes = before[0] + sum(map(len, lines)), before[1] + sum(sizes[0][:out]), before[2] + sum(sizes[1][:skipped])
