"""Replicas: several processes on this machine, each with an engine of its own and its own GPUs, as one engine.

On a CPU a replica with one thread is a fork of the command, which has loaded the model: they share the weights' memory, and none
waits for the threads of another. Elsewhere a replica is a new process.

A replica gets requests and sends results over a socket. It ends when the socket closes, however the command has ended.
One that dies, or whose engine fails after its first result, is started again, a few times.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import suppress
from functools import partial
from itertools import count
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol

from cai_cli.engines.base import Engine, Request, Result
from cai_cli.engines.dispatch import RESTARTS, Dispatcher, Worker, WorkerLost
from cai_cli.engines.worker import EngineWorker, as_error, end_with_parent
from cai_cli.errors import CaiError

Environment = dict[str, str]
"""Variables of a replica's environment, beside those of the command."""


class Process(Protocol):
    """A process of this command."""

    @property
    def pid(self) -> int | None:
        """Its id, and that of its group: an engine of several GPUs has processes of its own."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def wait(self) -> int:
        """Wait for its end; gives its exit code, or minus the signal that ended it."""
        ...


def _thread_lasts() -> bool:
    """Whether this thread lives as long as the process. Linux tells a child of the end of the thread that started it."""
    return threading.current_thread() is threading.main_thread()


def spawned(environment: Environment, again: bool) -> tuple[Process, Connection]:
    """A new process that runs `serve`, and the connection to it."""
    ours, theirs = Pipe()
    words = [str(theirs.fileno()), *(["again"] if again else []), *(["lasts"] if _thread_lasts() else [])]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cai_cli.engines.replicas", *words],
        pass_fds=[theirs.fileno()],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=2,  # standard output is for records
        process_group=0,  # Ctrl-C is for the command, which ends its replicas
    )
    theirs.close()
    return process, ours


class Fork(get_context("fork").Process):  # type: ignore[misc]
    """A fork of this process."""

    def wait(self) -> int:
        """Wait for its end; gives its exit code, or minus the signal that ended it."""
        self.join()
        return int(self.exitcode or 0)


def forked(engine: Engine, name: str, again: bool) -> tuple[Process, Connection]:
    """A fork of this process that serves an engine with one thread, and the connection to it."""
    ours, theirs = Pipe()
    lasts = _thread_lasts()

    def child() -> None:
        import torch

        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the command's handler would leave it waiting
        os.dup2(2, 1)
        for fd in map(int, os.listdir("/proc/self/fd")):  # the output, whose lock must end with the command, and other sockets
            if fd > 2 and fd != theirs.fileno():
                with suppress(OSError):
                    os.close(fd)
        torch.set_num_threads(1)  # the threads of a pool do not survive a fork
        serve(theirs, again, lasts, lambda: engine)

    process = Fork(target=child, daemon=True, name=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads: the child takes none of their locks
        process.start()
    theirs.close()
    return process, ours


class Replica:
    """A process with an engine, seen from the command. See `dispatch.Worker`."""

    def __init__(
        self,
        name: str,
        process: Process,
        connection: Connection,
        opened: Callable[[], Engine] | None,
        replace: Callable[[], Replica] | None,
        contexts: list[int],
    ) -> None:
        """`opened`: what the process calls to open its engine; None if it has one. `replace`: starts another one in its place.

        `contexts`: that of the run, once it is known.
        """
        self.name, self.ready, self._replace = name, Future[int](), replace
        """`ready`: the engine's context once it is open. Raises a CaiError."""
        self._waiting: dict[int, Future[Result]] = {}
        self._serial, self._lock, self._lost = count(), threading.Lock(), ""
        self._process, self._connection = process, connection
        self._ending, self._contexts = threading.Lock(), contexts
        self._code: int | None = None
        threading.Thread(target=self._receive, args=[opened], daemon=True).start()

    def submit(self, request: Request) -> Future[Result]:
        """Begin a request. The future raises a CaiError if the engine fails, `WorkerLost` if the process ends."""
        future, number = Future[Result](), next(self._serial)
        with self._lock:
            self._waiting[number] = future
        # Not under the lock: while this waits for room in the socket, the other thread must take results out of it.
        with suppress(OSError):  # the other thread sees the end too
            self._connection.send((number, request))
        with self._lock:
            if self._lost:
                self._fail()
        return future

    def close(self) -> None:
        """End the process at once: it has no state."""
        self._end()

    def _end(self) -> int:
        """End the process, and those that it has started: they would keep its GPUs.

        Gives its exit code, or minus the signal that ended it.
        """
        with self._ending:
            if self._code is None:
                with suppress(OSError):  # before it is waited for: until then no other process can have its id
                    if self._process.pid:
                        os.killpg(self._process.pid, signal.SIGKILL)
                self._process.kill()
                self._code = self._process.wait()
            return self._code

    def _receive(self, opened: Callable[[], Engine] | None) -> None:
        """Take results until the process ends."""
        try:
            if opened:
                self._connection.send(opened)
            self._settle(self.ready, self._connection.recv())
            while True:
                number, result = self._connection.recv()
                with self._lock:
                    future = self._waiting.pop(number)
                self._settle(future, result)
        except (EOFError, OSError):
            code = self._end()
            with self._lock:
                self._lost = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                self._fail()

    def _fail(self) -> None:
        if not self.ready.done():
            self.ready.set_exception(CaiError(f"{self.name} was lost while it loaded the model ({self._lost})"))
        for future in self._waiting.values():
            future.set_exception(WorkerLost(self._lost, self._replaced if self._replace else None))
        self._waiting.clear()

    def _replaced(self) -> Future[Worker]:
        """The replica in the place of this one, once its engine is open. Raises a CaiError if it cannot be opened."""
        assert self._replace
        started = Future[Worker]()
        try:
            replica = self._replace()
        except (OSError, MemoryError) as problem:  # no memory for another process
            started.set_exception(CaiError(f"{self.name}: {problem}"))
            return started

        def opened(ready: Future[int]) -> None:
            problem = ready.exception()
            if not problem and ready.result() < min(self._contexts, default=0):  # it would refuse what another one answers
                problem = CaiError(f"{self.name}: its context of {ready.result()} is smaller than the others'")
                replica.close()
            started.set_exception(problem) if problem else started.set_result(replica)

        replica.ready.add_done_callback(opened)
        return started

    @staticmethod
    def _settle(future: Future[Any], found: Any) -> None:
        future.set_exception(found) if isinstance(found, Exception) else future.set_result(found)


def open_replicas(opened: Callable[[], Engine], environments: list[Environment], each: int, fork: bool) -> Dispatcher:
    """One replica for each environment, as a fork of this process if `fork`. CaiError if one could not start.

    `each`: how many requests one has at a time.
    """
    engine = opened() if fork else None
    replicas: dict[int, Replica] = {}
    contexts: list[int] = []

    def start(number: int, restarts: int) -> Replica:
        name = f"replica {number} of {len(environments)}"
        again = restarts < RESTARTS
        process, connection = forked(engine, name, again) if engine else spawned(environments[number - 1], again)
        replace = partial(start, number, restarts - 1) if restarts else None
        replicas[number] = Replica(name, process, connection, None if engine else opened, replace, contexts)
        return replicas[number]

    def close() -> None:
        for replica in replicas.values():
            replica.close()

    try:
        ready = [start(number, RESTARTS).ready for number, _ in enumerate(environments, 1)]
        wait(ready, return_when=FIRST_EXCEPTION)
        for one in ready:
            if one.done() and (problem := one.exception()):
                raise problem
        contexts.append(min(one.result() for one in ready))
        return Dispatcher([*replicas.values()], contexts[0], each, close)
    except BaseException:
        close()
        raise


def serve(connection: Connection, again: bool, lasts: bool, opened: Callable[[], Engine] | None = None) -> None:
    """What a replica does: open an engine, or the one that it is told, and compute what it is asked.

    `again`: it takes the place of one that was lost. `lasts`: whether the thread that started it lives as long as its process.
    """
    end_with_parent(lasts)
    worker, lock = EngineWorker(again), threading.Lock()

    def send(message: object) -> None:
        with lock:
            connection.send(message)

    def answer(number: int, request: Request) -> None:
        def done(future: Future[Result]) -> None:
            problem = future.exception()
            send((number, problem or future.result()))

        worker.submit(request).add_done_callback(done)

    def receive() -> None:
        try:
            while True:
                answer(*connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # the command has ended

    worker.ready.add_done_callback(lambda ready: send(ready.exception() or ready.result()))
    try:
        opened = opened or connection.recv()
    except EOFError:
        return
    except Exception as problem:
        send(as_error(problem))
        return
    assert opened
    threading.Thread(target=receive, daemon=True).start()
    worker.serve(opened)
    threading.Event().wait()  # until the command has read what went wrong, and ends this process


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), again="again" in sys.argv, lasts="lasts" in sys.argv)
