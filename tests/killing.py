"""Kills `cai` at any moment: a process that has imported everything forks one child per command, and ends it as it is told.

    python -m tests.killing [MODULE...]     reads one `Order` per line on stdin, and answers each with an `End`

To start `cai` takes seconds, most of them for imports. A forked child starts at once, so a hundred kills take a minute. The
children are processes like any other: a SIGKILL reaches them at any instruction, and nothing of them runs after it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tests.processes import count_lines, environment
from tests.tiny import ROOT

PRELOAD = ("torch", "transformers.models.llama.modeling_llama", "cai_cli.engines.transformers", "cai_cli.engines.scorer")
TRAINERS = ("cai_cli.training.sft", "cai_cli.training.pm", "cai_cli.training.dpo", "cai_cli.training.rl", "trl", "datasets")
PATIENCE = 300.0
"""Seconds after which a child that does not end fails the test."""


def at_once() -> float:
    """Seconds within which a signal must end a command: 5, and more where other processes keep the cores busy."""
    return 5.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@dataclass
class Order:
    """A command, and when it gets a signal. With no moment it runs to its end."""

    args: list[str]
    log: str
    """The file for its standard error and output."""
    after: float | None = None
    """Seconds from its start, or from the moment when `lines` are there."""
    lines: tuple[str, int] | None = None
    """A file, and how many lines it must have first."""
    operation: tuple[str, int] | None = None
    """A folder or a file's beginning: the child kills itself before its n-th operation on a path that begins so."""
    signal: int = signal.SIGKILL


@dataclass
class End:
    """How a child ended."""

    code: int
    """Its exit code, or minus the signal that ended it."""
    seconds: float
    """From the signal to the end; from the start if there was none."""
    signalled: bool
    left: list[int]
    """Processes that the child started, and that still run some seconds after its end."""


def _kill_at(prefix: str, number: int) -> None:
    """End this process before its n-th operation on a path: open, rename, remove, truncate, make a directory and others."""
    seen = 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if any(isinstance(arg, str | Path) and str(arg).startswith(prefix) for arg in args):
            seen += 1
            if seen >= number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _child(order: Order) -> None:
    from cai_cli.main import main

    code = 99
    try:
        os.setsid()
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream, fd in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(stream, fd)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        sys.argv = ["cai", *order.args]
        if order.operation:
            _kill_at(*order.operation)
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _session(leader: int) -> list[int]:
    """The running processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


def _carry_out(order: Order) -> End:
    pid = os.fork()
    if pid == 0:
        _child(order)
    begun, signalled = time.monotonic(), False
    since: float | None = None if order.lines else begun
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        now = time.monotonic()
        if since is None and order.lines and count_lines(Path(order.lines[0])) >= order.lines[1]:
            since = now
        if not signalled and order.after is not None and since is not None and now - since >= order.after:
            os.kill(pid, order.signal)
            begun, signalled = now, True
        if now - begun > PATIENCE:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.0005)
    seconds, until = time.monotonic() - begun, time.monotonic() + 10
    while (left := _session(pid)) and time.monotonic() < until:
        time.sleep(0.05)
    return End(os.waitstatus_to_exitcode(ended[1]), seconds, signalled, left)


def serve(modules: list[str]) -> None:
    """Import everything, then carry out one order after the other."""
    from importlib import import_module

    from cai_cli.commands._command import calm_libraries
    from cai_cli.main import COMMANDS

    calm_libraries(debug=False)
    for name in (*(f"cai_cli.commands.{name.replace('-', '_')}" for name in COMMANDS), *PRELOAD, *modules):
        import_module(name)
    if size := os.environ.get("TEST_WINDOW"):  # so small that records wait on disk for one before them, at once
        vars(import_module("cai_cli.pipeline.stage"))["WINDOW"] = int(size)
        vars(import_module("cai_cli.pipeline.outputs"))["DELAY"] = 0
    for line in sys.stdin:
        print(json.dumps(asdict(_carry_out(Order(**json.loads(line))))), flush=True)


class Killer:
    """Sends orders to the process that forks."""

    def __init__(self, orders: IO[str], ends: IO[str]) -> None:
        self.orders, self.ends = orders, ends

    def __call__(self, order: Order) -> End:
        self.orders.write(json.dumps(asdict(order)) + "\n")
        self.orders.flush()
        return End(**json.loads(self.ends.readline()))


@contextmanager
def killer(*modules: str, **variables: str) -> Iterator[Killer]:
    """A process that forks. `modules`: what it also imports. `variables`: of its environment."""
    command = [sys.executable, "-m", "tests.killing", *modules]
    env = {**environment(), **variables}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield Killer(process.stdin, process.stdout)
        finally:
            process.stdin.close()


if __name__ == "__main__":
    serve(sys.argv[1:])
