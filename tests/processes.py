"""The program as a process: run one, start one, wait for what it writes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.tiny import ROOT

CAI = (sys.executable, "-m", "cai_cli.main")


def environment() -> dict[str, str]:
    """The environment for a `cai` process: one thread, which is fastest for tiny models."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def cai(*args: object, code: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `cai ARGS` as a process; asserts its exit code."""
    done = subprocess.run(
        [*CAI, *map(str, args)], cwd=ROOT, env=environment(), input=stdin, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, f"exit {done.returncode}, not {code}:\n{done.stderr}\n{done.stdout[-2000:]}"
    return done


def shell(script: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a bash script that may call `cai`; asserts its exit code."""
    script = f'set -o pipefail; cai() {{ {" ".join(CAI)} "$@"; }}; {script}'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"exit {done.returncode}, not {code}:\n{done.stderr}"
    return done


def start(
    *args: object, stdin: int | None = None, stdout: int | IO[str] | None = None, new_group: bool = False
) -> subprocess.Popen[str]:
    """Start `cai ARGS` in the background; its standard error can be read. `new_group`: a signal to its group spares the tests."""
    return subprocess.Popen(
        [*CAI, *map(str, args)], cwd=ROOT, env=environment(), stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True,
        start_new_session=new_group,
    )  # fmt: skip


def count_lines(path: Path) -> int:
    """The complete lines of a file, 0 if it does not exist yet."""
    with suppress(FileNotFoundError):  # a run may remove it at any moment
        return path.read_bytes().count(b"\n")
    return 0


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until a file has this many lines. AssertionError if the process ends before that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if count_lines(path) >= lines:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"{path} has no {lines} lines: {process.communicate()[1]}")


def wait_for_words(words: str, process: subprocess.Popen[str]) -> str:
    """Read the standard error of a process up to the line with these words. AssertionError if it ends before that."""
    said = ""
    for line in process.stderr or ():
        said += line
        if words in line:
            return said
    raise AssertionError(said)
