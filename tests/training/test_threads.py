"""Training beside another busy process: one thread for each core that is free."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import psutil
import pytest
import torch

from cai_cli.training import threads
from cai_cli.training.threads import ThreadsCallback, Usage, fitting


@pytest.mark.parametrize(
    ("machine", "own", "most", "cores", "found"),
    [
        (20.0, 20.0, 2, 2, 2),  # alone
        (20.0, 10.0, 2, 2, 1),  # another process has a core
        (20.0, 14.0, 2, 2, 1),  # it has only part of one, because both threads are in its way
        (13.0, 10.0, 2, 2, 2),  # others are seldom busy
        (80.0, 0.0, 2, 8, 1),  # others have all cores
        (30.0, 10.0, 8, 8, 6),
        (300.0, 10.0, 4, 64, 4),  # a part of a large machine
    ],
)
def test_a_thread_has_a_core_of_its_own(machine: float, own: float, most: int, cores: int, found: int) -> None:
    assert fitting(Usage(5.0, 100.0, 50.0), Usage(15.0, 100.0 + machine, 50.0 + own), most, cores) == found


@pytest.mark.skipif((psutil.cpu_count() or 1) == 1, reason="needs two cores")
@pytest.mark.parametrize("given", [None, "2"])
def test_a_busy_process_takes_a_thread(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the number of threads was given."""
    monkeypatch.setattr(threads, "EVERY", 1.0)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    else:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores, before = psutil.cpu_count() or 1, torch.get_num_threads()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    nothing: Any = None
    try:
        torch.set_num_threads(cores)
        callback = ThreadsCallback()
        callback.on_step_begin(nothing, nothing, nothing)
        assert torch.get_num_threads() == cores  # too early
        time.sleep(1.5)
        callback.on_step_begin(nothing, nothing, nothing)
        assert torch.get_num_threads() == cores if given else 1 <= torch.get_num_threads() < cores
    finally:
        busy.kill()
        busy.wait()
        torch.set_num_threads(before)
