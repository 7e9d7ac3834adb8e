"""Standard output holds only data; everything else goes to standard error.

Libraries print to standard output at any time (vLLM's logs, a child process). `claim_stdout` keeps the real
standard output for the data and points file descriptor 1 at standard error. So no library, and no process
that it starts, can put a line among the records.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.protocol import is_renderable
from rich.segment import Segment
from rich.table import Table

T = TypeVar("T")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text with control and direction characters spelled out, so that no record, manifest or server changes a terminal."""
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


class _Visible:
    """Something that Rich prints, without control characters in its texts."""

    def __init__(self, shown: RenderableType) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Its parts, cleaned."""
        for part in console.render(self.shown, options):
            yield part if part.control else Segment(visible(part.text), part.style)


class Terminal(Console):
    """A Rich console that prints no control character of a text."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, tables and other things."""
        super().print(
            *(_Visible(each) if is_renderable(each) and not isinstance(each, str) else visible(str(each)) for each in objects),
            **options,
        )


console = Terminal(stderr=True, highlight=False, soft_wrap=True)
process = int(os.environ.get("RANK", 0))
"""The number of this process, if a trainer runs in several. Only process 0 prints; the others print only errors."""


def echo(text: str = "") -> None:
    """Print a line on standard output."""
    typer.echo(visible(text))


def say(message: str, quiet: bool = False) -> None:
    """Print a line for the user on standard error. Markup in it is not interpreted, since it may hold data."""
    if not quiet and process == 0:
        console.print(message, markup=False)


def warn(message: str) -> None:
    """Print a warning on standard error, with --quiet too."""
    if process == 0:
        console.print(f"cai: warning: {message}", markup=False, style="yellow")


def plural(count: int, name: str) -> str:
    """A count with its noun, for example "1 record", "2 records" or "2 entries"."""
    many = f"{name[:-1]}ies" if re.search("[^aeiou]y$", name) else f"{name}s"
    return f"{count:,} {name if count == 1 else many}"


def plain_table(*columns: str, left: int = 1) -> Table:
    """An empty table without lines. The first `left` columns hold names; the others hold numbers and are aligned right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", overflow="fold" if i < left else "ellipsis")
    return table


def print_table(table: RenderableType, claimed: IO[bytes] | None = None, stderr: bool = False) -> None:
    """Print a table on standard output, on one that was claimed (`claim_stdout`), or on standard error.

    It is as wide as the terminal; without a terminal it is as wide as it needs.
    """
    out = Terminal(highlight=False, file=io.TextIOWrapper(claimed, write_through=True) if claimed else None, stderr=stderr)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = 1000
    out.print(table)


def claim_stdout() -> IO[bytes]:
    """The real standard output as an unbuffered binary stream. File descriptor 1 then points at standard error."""
    sys.stdout.flush()
    real = os.dup(1)
    os.set_inheritable(real, False)
    os.dup2(2, 1)
    return os.fdopen(real, "wb", buffering=0)


class Progress:
    """Shows records done, tokens and time left: a bar on a terminal, one line per minute elsewhere."""

    def __init__(self, name: str, total: int | None, quiet: bool) -> None:
        """`total`: the number of records; None if it cannot be known (a pipe)."""
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
        """Start the clock again, once the model is loaded."""
        self.start = time.monotonic()

    def rate(self) -> str:
        """Tokens per second since the start, generated and read; records if there are no tokens."""
        count, unit = (self.tokens, "tokens") if self.tokens else (self.done, "records")
        return f"{count / max(time.monotonic() - self.start, 1e-6):,.0f} {unit}/s"

    def advance(self, records: int, tokens: int) -> None:
        """Count finished records and their tokens, and update the display."""
        self.done += records
        self.tokens += tokens
        if self.bar:
            self.bar.update(self.task, completed=self.done, rate=self.rate())
        elif not self.quiet and time.monotonic() - self.last > 60:
            self.last = time.monotonic()
            count = plural(self.done, "record") if self.total is None else f"{self.done:,} of {plural(self.total, 'record')}"
            say(f"{self.name}: {count}, {self.rate()}")

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self.bar:
            self.bar.stop()


def tracked(name: str, items: Iterable[T], quiet: bool) -> Iterator[T]:
    """The items, with a display of the progress."""
    progress = Progress(name, None, quiet)
    try:
        for number, item in enumerate(items, 1):
            yield item
            if number % 100 == 0:
                progress.advance(100, 0)
    finally:
        progress.close()


def fail(message: str) -> None:
    """Print the sentence that a failed command ends with."""
    who = f"cai, process {process}" if process else "cai"
    console.print(f"{who}: {message}", markup=False, style="red")
