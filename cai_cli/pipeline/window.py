"""The records in flight, in input order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from cai_cli.data.jsonl import Line, Record
from cai_cli.engines.base import Result, Steps
from cai_cli.pipeline.ahead import AHEAD, Ahead, Finished
from cai_cli.pipeline.inputs import line_digest
from cai_cli.pipeline.streamed import Tokens


@dataclass(slots=True)
class Item:
    """One input record in the window."""

    line: Line | None
    """None after the program has ended."""
    record_id: str = ""
    program: Steps[list[Record]] | None = None
    """None for a bad line, and after the program has ended."""
    results: list[Result | None] = field(default_factory=list)
    """The results of the program's latest list of requests. None for those that have not arrived."""
    pending: int = 0
    """How many results have not arrived."""
    tokens: Tokens = (0, 0, 0, 0)
    finished: Finished | int | None = None
    """What is to be written, or its number in the file of those that wait. None while the program runs."""

    def count(self, result: Result, cached: int) -> None:
        """Count the tokens of a result."""
        prompt, completion, reused, calls = self.tokens
        self.tokens = (
            prompt + result.prompt_tokens,
            completion + result.completion_tokens,
            reused + result.reused_tokens,
            calls + cached,
        )


class Window:
    """The items in input order. Those that finish leave it in order; when many wait for one, they wait on disk."""

    def __init__(self, size: int, ahead: Ahead, patient: bool = False) -> None:
        """`size`: the largest number of unfinished records. `patient`: whether no record beyond `size` may begin.

        A step that ends when it has enough records is patient: what it makes ahead may not be needed.
        """
        self.ahead, self.patient = ahead, patient
        self.resize(size)
        self.items: deque[Item] = deque()
        self.unfinished = 0

    def resize(self, size: int) -> None:
        """Change the largest number of unfinished records."""
        self.size, self.limit = size, size if self.patient else size + AHEAD

    def __bool__(self) -> bool:
        return bool(self.items)

    @property
    def room(self) -> bool:
        """Whether one more record may begin."""
        return self.unfinished < self.size and len(self.items) < self.limit

    def add(self, item: Item) -> None:
        """Add a record at the end. It is finished already if an earlier run finished it."""
        assert item.line is not None
        item.finished = self.ahead.find(line_digest(item.line, numbered=True))
        if item.finished is None:
            self.unfinished += 1
        else:  # what it was is not needed any more
            item.line = None
        self.items.append(item)

    def finish(self, item: Item, outputs: list[Record], skipped: list[Record]) -> None:
        """Store what a record gave."""
        assert item.line is not None
        finished = line_digest(item.line, numbered=True), outputs, skipped, item.tokens
        wait = len(self.items) > self.size and item is not self.items[0]
        item.finished = self.ahead.put(finished) if wait else finished
        item.program, item.line, item.results = None, None, []
        self.unfinished -= 1

    def ready(self) -> Iterator[Finished]:
        """Remove and yield the finished records at the head, up to the first unfinished one."""
        while self.items and (found := self.items[0].finished) is not None:
            self.items.popleft()
            yield self.ahead.take(found) if isinstance(found, int) else found
