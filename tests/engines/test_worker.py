"""An engine that other threads give requests to."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from cai_cli.engines.base import Feed, Key, Request, Result, Score
from cai_cli.engines.worker import EngineWorker
from cai_cli.errors import CaiError


class Counter:
    """Scores a prompt by its number of tokens, several at a time; fails at an empty one."""

    context = 7

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        batch: list[Any] = []
        ended = False
        while batch or not ended:
            entry = next(feed, "end")
            ended = entry == "end"
            if isinstance(entry, tuple):
                batch.append(entry)
            elif batch:
                key, request = batch.pop()
                if not request.ids:
                    raise ZeroDivisionError("no\ntokens")
                yield key, Score(float(len(request.ids)), len(request.ids))


def serving(worker: EngineWorker, opened: Any) -> threading.Thread:
    thread = threading.Thread(target=worker.serve, args=[opened])
    thread.start()
    return thread


def asked(worker: EngineWorker, *lengths: int) -> list[Future[Result]]:
    return [worker.submit(Request("score", [0] * n, "")) for n in lengths]


def test_requests_before_and_after_the_engine_is_open_are_computed_and_it_ends_on_close() -> None:
    worker = EngineWorker()
    early = asked(worker, 1, 2)
    thread = serving(worker, Counter)
    assert worker.ready.result(10) == 7
    late = asked(worker, *range(3, 40))
    found: list[Any] = [future.result(10) for future in early + late]
    assert [score.score for score in found] == list(range(1, 40))
    worker.close()
    thread.join(10)
    assert not thread.is_alive()


def test_an_engine_that_fails_at_once_fails_every_request_with_an_error_that_can_be_sent() -> None:
    worker = EngineWorker()
    early = asked(worker, 0, 0)
    serving(worker, Counter).join(10)
    for future in [*early, *asked(worker, 5)]:
        problem = future.exception(10)
        assert isinstance(pickle.loads(pickle.dumps(problem)), CaiError)
        assert str(problem) == "unexpected ZeroDivisionError: no tokens"


def test_a_model_that_does_not_load_is_reported_where_one_waits_for_it() -> None:
    def opened() -> Any:
        raise CaiError("m: could not load the model")

    worker = EngineWorker()
    serving(worker, opened)
    with pytest.raises(CaiError, match="m: could not load the model"):
        worker.ready.result(10)
