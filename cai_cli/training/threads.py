"""How many threads compute a step on a CPU: one for each core that no other process keeps busy.

The threads of an operation wait for one another. If another process holds the core of one of them, all others wait until it
runs again: with two threads on two cores, one busy process can make training several times slower. With one thread less, each has
a core of its own.
"""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

EVERY = 2.0
"""Seconds between decisions. Times of processes are counted in hundredths of a second."""


class Usage(NamedTuple):
    """Seconds so far."""

    clock: float
    machine: float
    """Of all cores, while they were busy."""
    own: float
    """Of all cores, with this process."""


def usage() -> Usage:
    """Now."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = sum(getattr(machine, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return Usage(time.monotonic(), busy, own.user + own.system)


def fitting(before: Usage, now: Usage, most: int, cores: int) -> int:
    """How many threads to use from now on: at most `most`, on a machine of `cores` cores."""
    passed = now.clock - before.clock
    others = (now.machine - before.machine - (now.own - before.own)) / passed
    return max(1, min(most, round(cores - others)))


class ThreadsCallback(TrainerCallback):
    """Sets the number of threads before a step. `OMP_NUM_THREADS` turns this off."""

    def __init__(self) -> None:
        self.most = 1 if "OMP_NUM_THREADS" in os.environ else torch.get_num_threads()
        self.before = usage()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Decide, if enough time has passed."""
        if self.most > 1 and time.monotonic() - self.before.clock >= EVERY:
            now = usage()
            torch.set_num_threads(fitting(self.before, now, self.most, psutil.cpu_count() or self.most))
            self.before = now
