"""Requests that are handed to several workers."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from cai_cli.engines.base import Request, Result, Score
from cai_cli.engines.dispatch import Dispatcher, WorkerLost
from cai_cli.errors import CaiError
from tests.engine_feed import by_number, feed


class Adder:
    """A worker that scores a prompt by its number of tokens, in a thread of its own, and is lost after `lives` requests."""

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
            future.set_exception(WorkerLost("it broke"))
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
    assert quick.done > idle.done > 0


def test_requests_of_a_lost_worker_go_to_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    engine = Dispatcher([Adder("worker 1 of 2", lives=5), Adder("worker 2 of 2")], 100, each=4)
    assert scores(engine.run(feed(asked(40)))) == list(range(40))
    assert scores(engine.run(feed(asked(9)))) == list(range(9))
    said = capfd.readouterr().err
    assert said.count("warning") == 1
    assert "worker 1 of 2 was lost (it broke); the other 1 continue" in " ".join(said.split())


def test_without_workers_the_run_ends() -> None:
    engine = Dispatcher([Adder("a", lives=3), Adder("b", lives=3)], 100, each=4)
    with pytest.raises(CaiError, match="no other is left; the same command continues"):
        list(engine.run(feed(asked(40))))
