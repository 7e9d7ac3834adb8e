"""Trainers that are killed at random moments, at the end of an epoch, and while they write a checkpoint or the model."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.killing import TRAINERS, Killer, Order, at_once, killer
from tests.rows import preferences, read_jsonl, revisions, rl_prompts, write_jsonl

ROWS = {"train-sft": revisions(16), "train-pm": preferences(), "train-dpo": preferences(), "rl": rl_prompts(8)}
FLAGS = ("--save-every", "2", "--lr", "1e-3", "--dtype", "float32", "--save-dtype", "float32", "--batch-size", "4")
SAME = ("step", "loss", "learning_rate", "grad_norm", "tokens", "epoch", "reward", "kl")
"""What the lines of two runs must agree in; an absent number is None in both."""
OPERATIONS = {"checkpoint": 120, "model": 400}
"""More than a run performs on its checkpoints, and on its whole directory, besides writes."""
SHORT = "train-pm"
"""The trainer of the short form."""


@pytest.fixture(scope="module")
def kill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    with killer(*TRAINERS, XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache"))) as found:
        yield found


def arguments(step: str, model: str, pm: str, folder: Path) -> list[str]:
    """The command, without its output."""
    source = write_jsonl(folder / "in.jsonl", ROWS[step])
    more = ("--steps", "8", "--pm", pm, "--max-tokens", "8", "--num-generations", "4") if step == "rl" else ("--epochs", "2")
    return [step, source, "-m", model, *FLAGS, *more]


def result(out: Path) -> tuple[Any, ...]:
    """What must be equal of two finished runs: their weights, the lines of their steps, and which files there are."""
    lines = [tuple(line.get(key) for key in SAME) for line in read_jsonl(out / "metrics.jsonl")]
    return (out / "model.safetensors").read_bytes(), lines, sorted(path.name for path in out.iterdir())


def moment(kind: str, draw: random.Random, out: Path, seconds: float, epoch: int) -> dict[str, Any]:
    """When to kill, by kind."""
    partial = f"{out}.partial"
    if kind == "time":
        return {"after": draw.uniform(0, 1.1 * seconds)}
    if kind == "epoch":
        return {"lines": (f"{partial}/metrics.jsonl", epoch), "after": draw.uniform(0, 0.02)}
    if kind == "checkpoint":
        return {"operation": (f"{partial}/checkpoints/", draw.randint(1, OPERATIONS["checkpoint"]))}
    return {"operation": (str(out), draw.randint(1, OPERATIONS["model"]))}


@pytest.mark.parametrize("step", [step if step == SHORT else pytest.param(step, marks=pytest.mark.soak) for step in ROWS])
def test_a_trainer_killed_at_any_moment_ends_as_an_undisturbed_one(
    step: str, kill: Killer, tiny: str, tiny_pm: str, tmp_path: Path
) -> None:
    wanted, draw, log = int(os.environ.get("CAI_KILLS_TRAINING", 2)), random.Random(step), str(tmp_path / "log")
    command = arguments(step, tiny, tiny_pm, tmp_path)
    out, whole = tmp_path / "killed", tmp_path / "whole"
    end = kill(Order([*command, "-o", str(whole)], log))
    assert end.code == 0, Path(log).read_text()
    expected = result(whole)
    epoch = next(n for n, line in enumerate(read_jsonl(whole / "metrics.jsonl"), 1) if line["epoch"] >= 1)
    kills: dict[str, int] = {}
    kinds = ("checkpoint", "epoch", "model", "time")
    while sum(kills.values()) < wanted:
        shutil.rmtree(out, ignore_errors=True)
        for kind in iter(lambda: kinds[sum(kills.values()) % len(kinds)], None):
            ended = kill(Order([*command, "-o", str(out)], log, **moment(kind, draw, out, end.seconds, epoch)))
            if ended.code == 0:
                break
            assert ended.code == -signal.SIGKILL, Path(log).read_text()
            kills[kind] = kills.get(kind, 0) + 1
        assert result(out) == expected
        assert not Path(f"{out}.partial").exists()
    print(f"\n{step}: {kills}")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.soak), signal.SIGTERM])
@pytest.mark.parametrize("step", [step if step == SHORT else pytest.param(step, marks=pytest.mark.soak) for step in ROWS])
def test_a_signal_ends_a_trainer_with_130_and_the_same_command_continues(
    step: str, number: int, kill: Killer, tiny: str, tiny_pm: str, tmp_path: Path
) -> None:
    log, out = str(tmp_path / "log"), tmp_path / "out"
    command = [*arguments(step, tiny, tiny_pm, tmp_path), "--steps", "40", "-o", str(out)]
    end = kill(Order(command, log, after=0.5, signal=number))  # while it loads
    assert (end.code, end.signalled) == (130, True), Path(log).read_text()
    assert end.seconds < at_once()
    end = kill(Order(command, log, lines=(f"{out}.partial/metrics.jsonl", 2), after=0.0, signal=number))
    assert (end.code, end.signalled) == (130, True), Path(log).read_text()
    assert end.seconds < at_once()
    assert "the same command continues from there" in Path(log).read_text()
    assert kill(Order(command, log)).code == 0
    assert "continuing after step" in Path(log).read_text()
    assert [line["step"] for line in read_jsonl(out / "metrics.jsonl")] == list(range(1, 41))


def test_a_second_run_on_the_same_directory_is_refused(kill: Killer, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    from cai_cli.training.workspace import Workspace

    held = Workspace(str(tmp_path / "out"), {"step": "train-pm"}, restart=False)
    log, command = tmp_path / "log", arguments(SHORT, tiny, tiny_pm, tmp_path)
    assert kill(Order([*command, "-o", str(tmp_path / "out")], str(log))).code == 1
    assert f"{held.partial}: another run is writing it; wait for it, or give another -o" in log.read_text()
