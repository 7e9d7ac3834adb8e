"""A program's requests: whether they fit the model, and as --dry-run shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count

from cai_cli import streams
from cai_cli.data import jsonl
from cai_cli.data.ids import Ids
from cai_cli.data.jsonl import Line, Record
from cai_cli.engines.base import Completion, Request, Steps
from cai_cli.errors import Skipped
from cai_cli.pipeline.inputs import SKIP_BAD, Check, line_error


def rehearse(program: Steps[list[Record]]) -> Iterator[tuple[list[Request], bool]]:
    """A program's lists of requests, and whether each list depends on earlier texts, in place of which it gets placeholders."""
    results: list[Completion] | None = None
    for number in count(1):
        try:
            requests = program.send(results)  # type: ignore[arg-type]
        except StopIteration:
            return
        yield requests, number > 1
        if any(request.kind != "generate" for request in requests):
            return  # no placeholder can stand for a choice or a score
        results = [Completion(f"<the text of request {number}>", "stop", request.seed, 0, 0) for request in requests]


def require_context(requests: list[Request], context: int) -> None:
    """Raise Skipped if a request and its answer have more tokens than the model's context."""
    for request in requests:
        room = 1 if request.options or request.answer else request.max_tokens
        if len(request.ids) + room > context:
            raise Skipped(f"its prompt of {len(request.ids)} tokens and {room} more exceed the model's context of {context}")


def shown_requests(
    step: str, lines: Iterable[Line], bad: str | None, check: Check, make: Callable[[Record], Steps[list[Record]]], context: int
) -> Iterator[Record]:
    """The requests of a step's input as --dry-run shows them, with a warning where the run would skip the record.

    InputError at a bad line of the file `bad`; None skips them.
    """
    ids = Ids()
    for line in lines:
        if error := line_error(line, check, ids):
            if bad is None:
                continue
            raise jsonl.bad_line(bad, line.number, error, SKIP_BAD)
        assert line.record is not None
        identity = line.record["id"]
        try:
            for requests, depends in rehearse(make(line.record)):
                require_context(requests, context)
                yield from (request_record(identity, request, depends) for request in requests)
        except Skipped as reason:
            streams.warn(f"{step}: would skip {identity}: {reason}")


def request_record(identity: str, request: Request, depends: bool = False) -> Record:
    """A request as --dry-run shows it. `depends`: a placeholder stands for an earlier text in it."""
    shown: Record = {"id": identity, "text": request.text}
    if request.options:
        shown["options"] = request.options
    if depends:
        shown["depends_on_earlier_text"] = True
    if request.kind == "generate":
        shown |= {"seed": request.seed, "max_tokens": request.max_tokens, "stop": list(request.stop)}
    return shown
