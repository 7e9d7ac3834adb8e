"""An engine that other threads give requests to, one at a time: what a replica and a Ray actor run."""

from __future__ import annotations

import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NoReturn

from cai_cli.engines.base import Engine, Feed, Request, Result
from cai_cli.errors import CaiError


class EngineWorker:
    """A queue of requests, and the engine that `serve` opens for them."""

    def __init__(self, again: bool = False) -> None:
        """`again`: it takes the place of a worker that was lost."""
        self.again = again
        self.ready: Future[int] = Future()
        """The engine's context once it is open, or why it could not be opened."""
        self._queue: SimpleQueue[tuple[Future[Result], Request] | None] = SimpleQueue()
        self._due: set[Future[Result]] = set()  # the engine has their requests
        self._problem: CaiError | None = None

    def submit(self, request: Request) -> Future[Result]:
        """Begin a request. The future raises a CaiError if the engine fails."""
        future: Future[Result] = Future()
        self._queue.put((future, request))
        if self._problem:
            self._fail(self._problem)
        return future

    def close(self) -> None:
        """Let `serve` return once the requests are done."""
        self._queue.put(None)

    def serve(self, opened: Callable[[], Engine]) -> None:
        """Open the engine and compute requests until `close`, all in this thread: torch has settings for each thread.

        An engine that fails after its first result ends the process, as a crash would.
        """
        computed = self.again
        try:
            engine = opened()
            self.ready.set_result(engine.context)
            for future, result in engine.run(self._feed()):
                assert isinstance(future, Future)
                self._due.discard(future)
                future.set_result(result)
                computed = True
        except BaseException as problem:
            # A device that fails, or memory that one batch lacks, concerns this worker; what fails at once probably all
            if computed and self.ready.done():
                _crash(problem)
            self._fail(as_error(problem))

    def _feed(self) -> Feed:
        while True:
            try:
                entry = self._queue.get(block=not self._due)
            except Empty:
                yield None
                continue
            if entry is None:
                return
            self._due.add(entry[0])
            yield entry

    def _fail(self, problem: CaiError) -> None:
        """Give every request, and those to come, the error that ended the engine."""
        self._problem = problem
        if not self.ready.done():
            self.ready.set_exception(problem)
        with suppress(KeyError):  # two threads may be here
            while True:
                self._due.pop().set_exception(problem)
        with suppress(Empty):
            while entry := self._queue.get_nowait():
                entry[0].set_exception(problem)


def _crash(problem: BaseException) -> NoReturn:
    """End the process at once, with a traceback."""
    try:
        traceback.print_exception(problem)
        time.sleep(1)  # Ray sends results from another thread
    finally:  # otherwise the process would live on without its engine
        os._exit(1)


def as_error(problem: BaseException) -> CaiError:
    """An exception as an error that another process can raise; --debug shows where it was."""
    if isinstance(problem, CaiError):
        return problem
    error = CaiError(f"unexpected {type(problem).__name__}: {' '.join(str(problem).split())[:500]}")
    error.add_note("".join(traceback.format_exception(problem)))
    return error


def end_with_parent(lasts: bool = True) -> None:
    """In a process that a command starts: end when the command is killed, and leave Ctrl-C to the command.

    Otherwise it would live on, with the locks that it has inherited. `lasts`: whether the thread that started it lives as long as
    the command; if not, its end would end this process too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not lasts:
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, only on Linux
