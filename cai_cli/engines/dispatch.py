"""Hands requests to several workers: replicas of an engine, servers, or actors on other machines.

A worker takes a request and answers later, through a future. The least busy worker gets the next request. A worker that is lost
costs nothing but time: its requests go to the others.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Protocol

from cai_cli import errors, streams
from cai_cli.engines.base import Failure, Feed, Key, Request, Result
from cai_cli.errors import CaiError

POLL = 0.05
"""Seconds to wait for a result before the feed is asked again: a pipe may have brought a record in the meantime."""

PATIENCE = 1800.0
"""Seconds to wait for a worker on another machine when all are lost. One on this machine starts or fails."""
SILENCE = 900.0
"""Seconds after which a worker that has requests and gave no result is named, and the wait for a worker."""

SUSPECT, TOO_OFTEN = 2, 5
"""Workers that were lost with a request before it may be what ends them, and before it is given up, where others replace them."""
RESTARTS = TOO_OFTEN
"""How often a worker is started again, so that one such request does not end a run of a single worker."""


class WorkerLost(Exception):
    """The worker has ended, or cannot be reached any more. Its requests must be computed elsewhere."""

    def __init__(self, reason: str, replace: Callable[[], Future[Worker]] | None = None) -> None:
        """`replace`: waits for a worker in its place, which may never come. None: there will be none."""
        super().__init__(reason)
        self.replace = replace


class Worker(Protocol):
    """Computes requests, several at a time."""

    name: str
    """For messages."""

    def submit(self, request: Request) -> Future[Result]:
        """Begin a request. The future raises `WorkerLost` if the worker ends before the request does."""
        ...


class Losses:
    """Which requests workers were lost with. Of those that may be what ends a worker, each worker gets only one at a time.

    So if one of them ends every worker, the others are not given up with it.
    """

    def __init__(self) -> None:
        self.held: defaultdict[object, set[object]] = defaultdict(set)
        """The requests that each worker has."""
        self.trying: dict[object, object] = {}
        """Those of them that may be what ends it."""
        self.counts = Counter[object]()

    def suspect(self, key: object) -> bool:
        """Whether a request may be what ends workers."""
        return self.counts[key] >= SUSPECT

    def takes(self, worker: object, key: object) -> bool:
        """Whether a worker may get a request."""
        return worker not in self.trying or not self.suspect(key)

    def give(self, worker: object, key: object) -> None:
        """A worker gets a request."""
        self.held[worker].add(key)
        if self.suspect(key):
            self.trying[worker] = key

    def take(self, worker: object, key: object) -> None:
        """A worker has computed a request."""
        self.held[worker].discard(key)
        if self.trying.get(worker) == key:
            del self.trying[worker]

    def blame(self, worker: object) -> None:
        """Count the loss of a worker: for the suspect that it had, if there was one, else for all its requests."""
        mine, tried = self.held.pop(worker, set()), self.trying.pop(worker, None)
        self.counts.update([tried] if tried is not None else mine)


class Dispatcher:
    """An engine of several workers. See `engines.base.Engine`."""

    remote = False
    """Whether the workers are on machines of their own."""

    def __init__(self, workers: Sequence[Worker], context: int, each: int, close: Callable[[], None] = lambda: None) -> None:
        """`each`: the largest number of requests that a worker has at a time. `close`: ends the workers."""
        self.context, self.each, self.close = context, each, close
        self.busy = dict.fromkeys(workers, 0)
        """How many requests each worker has. A lost worker is not in it."""
        self.away: list[Future[Worker]] = []
        """The workers that are being started."""
        self.since = time.monotonic()  # when the last one was lost
        self.silence = SILENCE
        self.heard: dict[Worker | None, float] = {}
        """When each worker last had no request, or gave a result; infinity once its silence was said. None: all of them."""

    @property
    def most(self) -> int:
        """The largest number of requests that all workers have at a time."""
        return self.each * self.workers

    @property
    def workers(self) -> int:
        """How many workers there are, with those that are being started."""
        return len(self.busy) + len(self.away)

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        """Yield each request's result as it finishes."""
        done: SimpleQueue[tuple[Worker, Key, Request, Future[Result]]] = SimpleQueue()
        again: deque[tuple[Key, Request]] = deque()  # requests of lost workers
        in_flight, ended = 0, False
        self.busy = dict.fromkeys(self.busy, 0)  # an earlier caller may have stopped before its results came
        losses = Losses()

        def submit(key: Key, request: Request) -> bool:
            """Give a request to the least busy worker that takes it. Returns whether there is one."""
            free = [worker for worker, has in self.busy.items() if has < self.each and losses.takes(worker, key)]
            if free:
                worker = min(free, key=self.busy.__getitem__)
                self.heard[worker] = self.heard[worker] if self.busy[worker] else time.monotonic()
                self.busy[worker] += 1
                losses.give(worker, key)
                # `done` is the only thing that the callback touches: it runs in another thread
                worker.submit(request).add_done_callback(lambda future: done.put((worker, key, request, future)))
            return bool(free)

        while True:
            self._welcome()
            while again and submit(*again[0]):
                again.popleft()
            while not ended and in_flight < self.each * len(self.busy):
                try:
                    entry = next(feed)
                except StopIteration:
                    ended = True
                    break
                if entry is None:
                    break
                if not submit(*entry):
                    again.appendleft(entry)
                in_flight += 1
            if ended and not in_flight:
                return
            try:
                worker, key, request, future = done.get(timeout=POLL)
            except Empty:
                if errors.interrupted:
                    raise KeyboardInterrupt from None
                self._name_silent()
                continue
            result = self._settle(worker, key, future, losses)
            if result is None:  # a suspect may have to wait, and the others must not wait for it
                (again.append if losses.suspect(key) else again.appendleft)((key, request))
                continue
            in_flight -= 1
            yield key, result

    def _settle(self, worker: Worker, key: Key, future: Future[Result], losses: Losses) -> Result | None:
        """The result of a request that has ended; None if its worker was lost, and another one must compute it."""
        if worker in self.busy:
            self.busy[worker] -= 1
            self.heard[worker] = time.monotonic()
        try:
            result = future.result()
        except WorkerLost as lost:
            if worker in self.busy:
                losses.blame(worker)
                self._lose(worker, lost)
            again = losses.counts[key] < TOO_OFTEN
            return None if again else Failure(f"{TOO_OFTEN} workers were lost while they had it (the last one: {lost})")
        losses.take(worker, key)
        return result

    def _name_silent(self) -> None:
        """Say once which workers have requests and give no results. They may compute long texts, or never end."""
        for worker, has in self.busy.items():
            if has and time.monotonic() - self.heard[worker] > self.silence:
                self.heard[worker] = float("inf")
                what = f"has given no result for {self.silence / 60:.0f} minutes, and has {streams.plural(has, 'request')}"
                streams.warn(f"{worker.name} {what}; if its GPU is idle, end it, and its requests are computed again")
        if not self.busy and time.monotonic() - self.heard.setdefault(None, self.since) > self.silence:
            self.heard[None] = float("inf")
            streams.warn(f"no worker has started for {self.silence / 60:.0f} minutes; still waiting for one")

    def _welcome(self) -> None:
        """Take the workers that have started. CaiError if there is none, and none to wait for."""
        for back in [future for future in self.away if future.done()]:
            self.away.remove(back)
            problem = back.exception()
            if problem is None:
                self.busy[back.result()] = 0
            elif not isinstance(problem, WorkerLost):  # that it was lost has been said
                streams.warn(f"a worker could not be started: {problem}")
        if not self.busy and (not self.away or (self.remote and time.monotonic() - self.since > PATIENCE)):
            raise CaiError("no worker is left; the same command continues")

    def _lose(self, worker: Worker, lost: WorkerLost) -> None:
        """Give a worker no more requests, with one message."""
        del self.busy[worker]
        self.away += [lost.replace()] if lost.replace else []
        self.since = self.heard[None] = time.monotonic()
        if not self.busy and not self.away:
            raise CaiError(f"{worker.name} was lost ({lost}), and no other is left; the same command continues")
        rest = f"the other {len(self.busy)} continue with its requests" if self.busy else "waiting until another has started"
        streams.warn(f"{worker.name} was lost ({lost}); {rest}")
