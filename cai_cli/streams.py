"""Standard output for data alone, everything else on standard error.

Libraries print to standard output as they like (vLLM's logs, a child process). `claim_stdout`
keeps the real one for the data and points file descriptor 1 at standard error, so that no
library, nor any process it starts, can put a line among the records.
"""

from __future__ import annotations

import io
import os
import sys
import time
from typing import IO

from rich.console import Console, RenderableType

console = Console(stderr=True, highlight=False, soft_wrap=True)
process = int(os.environ.get("RANK", 0))
"""Which process of a run this is, where a trainer runs in several; only the first speaks, but for errors."""


def say(message: str, quiet: bool = False) -> None:
    """A line for the person, on standard error, taken literally (no markup from data)."""
    if not quiet and process == 0:
        console.print(message, markup=False)


def warn(message: str) -> None:
    """A warning, on standard error, also under --quiet."""
    if process == 0:
        console.print(f"cai: warning: {message}", markup=False, style="yellow")


def plural(count: int, name: str) -> str:
    """A count with its noun: "1 record", "2 records"."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def print_table(table: RenderableType, claimed: IO[bytes] | None = None, stderr: bool = False) -> None:
    """A table on standard output (or one that was claimed, or standard error): as wide as the terminal, elsewhere as it needs."""
    out = Console(highlight=False, file=io.TextIOWrapper(claimed, write_through=True) if claimed else None, stderr=stderr)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = 1000
    out.print(table)


def claim_stdout() -> IO[bytes]:
    """The real standard output as an unbuffered binary stream; descriptor 1 becomes stderr."""
    sys.stdout.flush()
    real = os.dup(1)
    os.set_inheritable(real, False)
    os.dup2(2, 1)
    return os.fdopen(real, "wb", buffering=0)


class Progress:
    """Records done, tokens and time left: a bar on a terminal, a line a minute elsewhere.

    `total` is None where it can't be known (a pipe).
    """

    def __init__(self, name: str, total: int | None, quiet: bool) -> None:
        self.name, self.total, self.done, self.tokens = name, total, 0, 0
        self.start = self.last = time.monotonic()
        self.bar = None
        self.quiet = quiet or process > 0
        if console.is_terminal and not self.quiet:
            from rich import progress

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self.task = self.bar.add_task(name, total=total, rate="")
            self.bar.start()

    def restart(self) -> None:
        """Begin to measure now: the model is loaded."""
        self.start = time.monotonic()

    def rate(self) -> str:
        """Tokens generated or read a second since the start."""
        return f"{self.tokens / max(time.monotonic() - self.start, 1e-6):,.0f} tokens/s"

    def advance(self, records: int, tokens: int) -> None:
        """Count finished records and their tokens, and show it."""
        self.done += records
        self.tokens += tokens
        if self.bar:
            self.bar.update(self.task, completed=self.done, rate=self.rate())
        elif not self.quiet and time.monotonic() - self.last > 60:
            self.last = time.monotonic()
            of = f" of {self.total}" if self.total is not None else ""
            say(f"{self.name}: {self.done}{of} records, {self.rate()}")

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self.bar:
            self.bar.stop()


def fail(message: str) -> None:
    """The sentence that a failed command ends with."""
    who = f"cai, process {process}" if process else "cai"
    console.print(f"{who}: {message}", markup=False, style="red")
