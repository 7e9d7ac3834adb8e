"""Runs of the trainers on tiny models: their settings, the trainer of a step, and how a run is killed or interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from cai_cli.training import dpo, pm, rl, sft
from cai_cli.training.rl import Rollout
from cai_cli.training.settings import Settings
from tests.processes import count_lines, start

DEFAULTS: dict[str, dict[str, Any]] = {
    "train-sft": {"lr": 1e-3, "batch_size": 4, "steps": 3},
    "train-pm": {"lr": 1e-3, "batch_size": 4, "steps": 6},
    "train-dpo": {"lr": 1e-3, "batch_size": 4, "steps": 6},
    "rl": {"lr": 3e-3, "batch_size": 2, "steps": 6},
}


def settings(step: str, files: list[str], model: str | Path, output: Path, **more: Any) -> Settings:
    """The settings of a short, quiet run of a step, all in float32; `more` adds to them or replaces them."""
    given: dict[str, Any] = {**DEFAULTS[step], "dtype": "float32", "save_dtype": "float32", "quiet": True, **more}
    return Settings(step=step, files=files, model=str(model), output=str(output), **given)


def train(run: Settings, rollout: Rollout | None = None) -> Any:
    """Run the trainer of the settings' step; `rl` needs a rollout. Returns TRL's trainer."""
    if rollout is not None:
        return rl.train(run, rollout)
    trainers: dict[str, Any] = {"train-sft": sft.train, "train-pm": pm.train, "train-dpo": dpo.train}
    return trainers[run.step](run)


def kill_between_checkpoints(command: list[str], metrics: Path, save_every: int) -> int:
    """Run a trainer as a process, SIGKILL it one or two steps after its second checkpoint; returns the steps then logged."""
    process = start(*command)
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        lines = count_lines(metrics)
        if lines > 2 * save_every and lines % save_every:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return lines
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"ended before it could be killed: {process.communicate()[1]}")


def interrupt_at(metrics: Path, lines: int) -> None:
    """Send this process SIGINT, as ctrl-C would, once the metrics have this many lines."""

    def wait() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if count_lines(metrics) >= lines:
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.005)

    threading.Thread(target=wait, daemon=True).start()
