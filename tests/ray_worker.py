"""Ray workers that are forked from a process which has imported everything, so that a cluster's test need not wait for imports.

    python tests/ray_worker.py SOCKET                    forks a worker for each request that comes to the socket
    python tests/ray_worker.py default_worker.py ...     what Ray runs in place of its own setup_worker.py: it asks for a fork

A worker is a process like any other: Ray starts, watches and kills it.
"""

from __future__ import annotations

import array
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

VARIABLE = "TEST_RAY_WORKERS"
"""Names the socket, in the environment of the cluster."""
IMPORTS = ("torch", "transformers.models.llama.modeling_llama", "cai_cli.engines.ray", "cai_cli.engines.transformers",
           "cai_cli.engines.scorer", "cai_cli.engines.select")  # fmt: skip
"""Not Ray itself: it reads a worker's job from the environment when it is imported."""
SETUP = ("--serialized-runtime-env-context", "--language")
"""What Ray's own setup_worker.py takes of the arguments. Our actors have no runtime environment."""


def ask(args: list[str]) -> None:
    """Have a worker with these arguments forked, with this process's files and environment; wait for its end."""
    message = json.dumps({"args": args, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ[VARIABLE])
        line.sendmsg([len(message).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
        line.sendall(message)
        line.recv(1)  # the worker holds the other end as long as it lives


@contextmanager
def forked_workers() -> Iterator[dict[str, Any]]:
    """The process that forks; gives the arguments that a node of `ray.cluster_utils.Cluster` needs besides."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "socket")
        # Ray's workers have a niceness of 15 unless told otherwise, so that a busy neighbour takes all their time
        with (
            patch.dict(os.environ, {VARIABLE: str(path), "RAY_worker_niceness": "0"}),
            subprocess.Popen([sys.executable, __file__, str(path)], env={**os.environ, "OMP_NUM_THREADS": "1"}) as process,
        ):
            try:
                while not path.exists():
                    time.sleep(0.01)
                yield {"setup_worker_path": __file__}
            finally:
                process.kill()


def become_worker(files: list[int], message: dict[str, Any]) -> None:
    """Run Ray's worker in this process."""
    for number, fd in enumerate(files):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(message["environment"])
    os.chdir(message["folder"])
    sys.argv = message["args"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def serve(path: str) -> None:
    """Import everything, then fork one worker per request."""
    from importlib import import_module

    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen(64)  # requests wait there until the imports are done
        for name in IMPORTS:
            import_module(name)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            line, _ = door.accept()
            head, files, _, _ = socket.recv_fds(line, 4, 3)
            text = b""
            while len(text) < int.from_bytes(head, "big"):
                text += line.recv(1 << 16)
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                door.close()
                become_worker(files, json.loads(text))
                os._exit(0)
            for fd in (line.fileno(), *files):
                os.close(fd)
            line.detach()


if __name__ == "__main__":
    if Path(sys.argv[1]).name.startswith("default_worker"):
        ask([arg for arg in sys.argv[1:] if not arg.startswith(SETUP)])
    else:
        serve(sys.argv[1])
