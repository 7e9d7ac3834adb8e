"""A step in memory: for the library, and for the rewards of reinforcement learning. No files, no manifest, nothing to resume."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeVar

from cai_cli.data.ids import Ids
from cai_cli.data.jsonl import Line
from cai_cli.engines.base import Engine, Failure, Request, Steps
from cai_cli.engines.dispatch import Dispatcher
from cai_cli.errors import InputError, Skipped
from cai_cli.pipeline.inputs import line_error
from cai_cli.pipeline.memory import Memory
from cai_cli.pipeline.requests import require_context
from cai_cli.pipeline.stage import Job

T = TypeVar("T")


KEPT = 2
"""Models that stay loaded: a language model and a preference model, or a policy and its judge."""


def close(engines: dict[str, Any]) -> None:
    """Free the model that was used longest ago, and end its workers."""
    engine = engines.pop(next(iter(engines)))
    if isinstance(engine, Dispatcher):
        engine.close()


def run(job: Job, memory: Memory) -> None:
    """Run a job over `memory.records`. InputError for a bad record."""
    ids, records = Ids(), deepcopy(memory.records)
    for number, record in enumerate(records, 1):
        if error := line_error(Line(number, b"", record), job.check, ids):
            raise InputError(f"record {number}: {error}")
    key = job.loads
    if key not in memory.engines:
        while len(memory.engines) >= KEPT:
            close(memory.engines)
        memory.engines[key] = job.open_engine()
    engine = memory.engines[key] = memory.engines.pop(key)  # the latest is the last
    found = drive(engine, [job.program(record) for record in records], min(job.context, engine.context))
    for record, result in zip(records, found, strict=True):
        if isinstance(result, Skipped):
            memory.skipped.append({"error": str(result), "record": result.record or record})
            continue
        for made in result:
            memory.made.append(made)
            if job.observer:
                job.observer.count(made)


def drive(engine: Engine, programs: Sequence[Steps[T]], context: int) -> list[T | Skipped]:
    """Run programs to their ends, and give their results in order. The model gets what all of them ask for at once.

    Requests that are equal are computed once. A program whose request fails, or exceeds `context` tokens, is given `Skipped`.
    """
    found: dict[int, T | Skipped] = {}
    results: dict[int, Any] = dict.fromkeys(range(len(programs)))
    while results:
        asked: dict[str, Request] = {}
        waiting: dict[int, list[str]] = {}
        for i, given in results.items():
            try:
                requests = _advance(programs[i], given, context)
            except StopIteration as stop:
                found[i] = stop.value
            except Skipped as reason:
                found[i] = reason
            else:
                waiting[i] = [repr(request) for request in requests]
                asked.update(zip(waiting[i], requests, strict=True))
        answers = dict(engine.run(iter(list(asked.items())))) if asked else {}
        results = {i: [answers[key] for key in keys] for i, keys in waiting.items()}
    return [found[i] for i in range(len(programs))]


def _advance(program: Steps[Any], given: Any, context: int) -> list[Request]:
    """A program's next requests, after the results `given`. Raises what ends it."""
    failed = next((result for result in given or () if isinstance(result, Failure)), None)
    # raised inside the program, so that it can attach its work so far
    requests = program.throw(Skipped(failed.reason)) if failed else program.send(given)
    try:
        require_context(requests, context)
    except Skipped as reason:
        return program.throw(reason)
    return requests
