"""Requests that are handed to several workers."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from cai_cli.engines.base import Failure, Request, Result, Score
from cai_cli.engines.dispatch import Dispatcher, WorkerLost
from cai_cli.errors import CaiError
from tests.engine_feed import by_number, feed


class Adder:
    """A worker that scores a prompt by its number of tokens, in a thread of its own, and is lost after `lives` requests."""

    replace: Any = None

    def __init__(self, name: str, lives: float = float("inf"), slow: float = 0.0) -> None:
        self.name, self.lives, self.slow, self.most, self.now, self.done = name, lives, slow, 0, 0, 0
        self.lock = threading.Lock()

    def submit(self, request: Request) -> Future[Result]:
        future: Future[Result] = Future()
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Timer(self.slow, self._answer, (request, future)).start()
        return future

    def _answer(self, request: Request, future: Future[Result]) -> None:
        with self.lock:
            self.now -= 1
            self.done += 1
            lost = self.done > self.lives
        if lost:
            future.set_exception(WorkerLost("it broke", self.replace))
        else:
            future.set_result(Score(float(len(request.ids)), len(request.ids)))


def asked(count: int) -> list[Request]:
    return [Request("score", [0] * n, "") for n in range(count)]


def scores(results: Any) -> list[float]:
    return [result.score for result in by_number(results)]


@pytest.mark.parametrize("slow", [False, True])
def test_the_least_busy_gets_the_next_and_none_more_than_its_share(slow: bool) -> None:
    quick, idle = Adder("quick"), Adder("idle", slow=0.1)
    engine = Dispatcher([quick, idle], 100, each=3)
    assert scores(engine.run(feed(asked(40), slow))) == list(range(40))
    assert max(quick.most, idle.most) <= 3
    assert quick.done > idle.done
    assert slow or idle.done  # one that comes alone may always find the first worker free


def test_requests_of_a_lost_worker_go_to_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    other = Adder("worker 2 of 2", slow=0.01)
    engine = Dispatcher([Adder("worker 1 of 2", lives=5), other], 100, each=4)
    assert scores(engine.run(feed(asked(40)))) == list(range(40))
    assert other.most <= 4  # it has no more at a time than before
    assert scores(engine.run(feed(asked(9)))) == list(range(9))
    said = capfd.readouterr().err
    assert said.count("warning") == 1
    assert "worker 1 of 2 was lost (it broke); the other 1 continue" in " ".join(said.split())


def test_without_workers_the_run_ends() -> None:
    engine = Dispatcher([Adder("a", lives=3), Adder("b", lives=3)], 100, each=4)
    with pytest.raises(CaiError, match="no other is left; the same command continues"):
        list(engine.run(feed(asked(40))))


def test_a_worker_that_is_replaced_joins_again_and_the_run_waits_if_there_is_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = Adder("first", lives=5), Adder("second")
    coming: Future[Any] = Future()

    def replace() -> Future[Any]:
        threading.Timer(0.3, coming.set_result, [second]).start()
        return coming

    first.replace = replace
    engine = Dispatcher([first], 100, each=4)
    assert scores(engine.run(feed(asked(40)))) == list(range(40))
    assert second.done >= 35
    assert "first was lost (it broke); waiting until another has started" in " ".join(capfd.readouterr().err.split())


def test_a_request_that_ends_every_worker_costs_itself_and_not_those_beside_it() -> None:
    class Dying(Adder):
        """Ends with all that it has when it begins request 7."""

        def __init__(self, name: str) -> None:
            super().__init__(name, slow=0.2)
            self.mine: list[Future[Result]] = []

        def submit(self, request: Request) -> Future[Result]:
            fatal = len(request.ids) == 7
            future: Future[Result] = Future() if fatal else super().submit(request)
            self.mine.append(future)
            if fatal:
                threading.Timer(0.02, self._end).start()
            return future

        def _end(self) -> None:
            for future in self.mine:
                if not future.done():
                    future.set_exception(WorkerLost("it broke", replace))

        def _answer(self, request: Request, future: Future[Result]) -> None:
            if not future.done():
                super()._answer(request, future)

    def replace() -> Future[Any]:
        coming: Future[Any] = Future()
        coming.set_result(Dying("another"))
        return coming

    results = by_number(Dispatcher([Dying("a")], 100, each=8).run(feed(asked(40))))
    assert [i for i, result in enumerate(results) if isinstance(result, Failure)] == [7]
    assert results[7].reason == "5 workers were lost while they had it (the last one: it broke)"


def test_a_replacement_that_fails_is_named_and_ends_the_run_if_there_is_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    def replace() -> Future[Any]:
        failed: Future[Any] = Future()
        failed.set_exception(CaiError("no such model there"))
        return failed

    first = Adder("first", lives=5)
    first.replace = replace
    with pytest.raises(CaiError, match="no worker is left; the same command continues"):
        list(Dispatcher([first], 100, each=4).run(feed(asked(40))))
    assert "a worker could not be started: no such model there" in " ".join(capfd.readouterr().err.split())
