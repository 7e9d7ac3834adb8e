"""Forks of this process with one thread each: the fastest use of the few cores of a small machine.

They share the memory of the weights that this process has loaded, and none waits for the threads of another.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import TypeVar

from cai_cli.engines.worker import as_error, end_with_parent
from cai_cli.errors import CaiError

T = TypeVar("T")
R = TypeVar("R")


class Fork(get_context("fork").Process):  # type: ignore[misc]
    """A fork of this process."""

    def wait(self) -> int:
        """Wait for its end; gives its exit code, or minus the signal that ended it."""
        self.join()
        return int(self.exitcode or 0)


def start(work: Callable[[Connection], None], name: str) -> tuple[Fork, Connection]:
    """A fork that does `work`, and the connection to it."""
    ours, theirs = Pipe()

    def child() -> None:
        import torch

        os.setpgid(0, 0)
        end_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the command's handler would leave it waiting
        os.dup2(2, 1)
        for fd in map(int, os.listdir("/proc/self/fd")):  # the output, whose lock must end with the command, and other sockets
            if fd > 2 and fd != theirs.fileno():
                with suppress(OSError):
                    os.close(fd)
        torch.set_num_threads(1)  # the threads of a pool do not survive a fork
        work(theirs)

    process = Fork(target=child, daemon=True, name=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads: the child takes none of their locks
        process.start()
    theirs.close()
    return process, ours


def spread(compute: Callable[[list[T]], list[R]], items: list[T], number: int) -> list[R]:
    """`compute(items)`, with the items divided among a number of forks; in this process if that is 1.

    `compute` gives one result per item. What a fork gets depends only on the items, so that sums are rounded alike in every run.
    CaiError if a fork fails.
    """
    parts = [part for i in range(number) if (part := items[i::number])]
    if len(parts) < 2:
        return compute(items)

    def work(part: list[T], connection: Connection) -> None:
        try:
            connection.send(compute(part))
        except BaseException as problem:
            connection.send(as_error(problem))

    started = [start(lambda connection, part=part: work(part, connection), "") for part in parts]  # type: ignore[misc]
    results: list[R | None] = [None] * len(items)
    try:
        for i, (process, connection) in enumerate(started):
            try:
                found = connection.recv()
            except EOFError:
                raise CaiError(f"a process of this command was lost (exit code {process.wait()}); run it again") from None
            if isinstance(found, CaiError):
                raise found
            results[i::number] = found
    finally:
        for process, connection in started:
            connection.close()
            process.kill()
            process.wait()
    return results  # type: ignore[return-value]
