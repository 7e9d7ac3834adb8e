"""A run in two processes (torchrun, gloo): what it learns is what one process learns from the same global batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cai_cli.training import dpo, pm, sft
from tests import test_training_dpo, test_training_pm, test_training_rl, test_training_sft
from tests.test_training_pm import pair
from tests.tiny import ROOT, cai, environment, read_jsonl, write_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")

INSIDE = """
import hashlib, json, sys
from pathlib import Path
import torch.distributed
from cai_cli.training import rl
from cai_cli.training.settings import Settings

given = json.loads(sys.argv[1])
trainer = rl.train(Settings(**given["settings"]), rl.Rollout(**given["rollout"]))
digest = hashlib.sha256()
for parameter in trainer.accelerator.unwrap_model(trainer.model).parameters():
    digest.update(parameter.detach().numpy().tobytes())
seen = {"world": torch.distributed.get_world_size(), "rank": torch.distributed.get_rank(), "weights": digest.hexdigest()}
Path(given["out"], f"rank{seen['rank']}.json").write_text(json.dumps(seen))
"""


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_jsonl(folder / "metrics.jsonl") if "loss" in line]


def test_supervised_and_preference_losses_are_those_of_one_process(tiny: str, tmp_path: Path) -> None:
    """Four rows a process in two, or eight in one, over two passes: the same losses, to 1e-5, learning rates and tokens."""
    answers = write_jsonl(tmp_path / "sft.jsonl", test_training_sft.rows(24))
    varied = [pair(i, 0.5 + i / 50, chosen=f"It is {'very ' * (i % 5)}good.") for i in range(24)]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", varied)
    flags = [
        "--steps",
        "6",
        "--lr",
        "1e-3",
        "--dtype",
        "float32",
        "--grad-accum",
        "1",
        "--batch-size",
        "4",
        "--max-length",
        "512",
    ]
    runs: list[tuple[str, str, Any, Any]] = [
        ("train-sft", answers, sft.train, test_training_sft.settings),
        ("train-pm", pairs, pm.train, test_training_pm.settings),
        ("train-dpo", pairs, dpo.train, test_training_dpo.settings),
    ]
    for step, source, train, settings in runs:
        two, one = tmp_path / f"{step}-2", tmp_path / f"{step}-1"
        done = cai(step, source, "-m", tiny, "-o", two, *flags, "--num-processes", "2", "--eval", source)
        assert done.stdout == ""
        assert done.stderr.count("6 steps") == 1  # one of them speaks
        train(settings([source], tiny, one, steps=6, batch_size=8, eval=[source], max_length=512, grad_accum=1))
        assert json.loads((two / "manifest.json").read_text())["processes"] == 2
        assert losses(two) == pytest.approx(losses(one), abs=1e-5), step
        for key in ("learning_rate", "tokens", "grad_norm", "eval_loss"):
            if (step, key) == ("train-sft", "eval_loss"):
                continue  # a mean of the batches' means, and these are of 4 rows or of 8
            found = [[line[key] for line in read_jsonl(folder / "metrics.jsonl") if key in line] for folder in (two, one)]
            assert len(found[0]) >= 3
            assert found[0] == pytest.approx(found[1], abs=1e-4), (step, key)


def test_rl_runs_on_two_ranks_with_equal_replicas(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", test_training_rl.asked(6))
    settings = {
        "step": "rl", "files": [source], "model": tiny, "output": str(tmp_path / "rl"), "lr": 3e-3, "batch_size": 2, "steps": 4,
        "dtype": "float32", "quiet": True,
    }  # fmt: skip
    (tmp_path / "inside.py").write_text(INSIDE)
    given = {"settings": settings, "rollout": {"pms": [tiny_pm], "max_tokens": 8}, "out": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "inside.py"),
         json.dumps(given)],
        cwd=ROOT, env={**environment(), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert (first["world"], second["world"]) == (2, 2)
    assert first["weights"] == second["weights"]
    metrics = read_jsonl(tmp_path / "rl" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    assert all(isinstance(line["reward"], float) and abs(line["reward"]) < 100 for line in metrics)
    samples = [entry for entry in read_jsonl(tmp_path / "rl" / "samples.jsonl") if entry["step"] == 1]
    assert len(samples) == 16  # two prompts a process, four answers each, of both processes
    assert len({entry["id"] for entry in samples}) == 4


def test_an_interrupted_run_of_two_processes_goes_on(tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "sft.jsonl", test_training_sft.rows(24))
    flags = ["-m", tiny, "--steps", "40", "--lr", "1e-3", "--dtype", "float32", "--batch-size", "2", "--grad-accum", "1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    cai("train-sft", source, *flags, "-o", whole, "--num-processes", "2")
    command = [sys.executable, "-m", "cai_cli.main", "train-sft", source, *flags, "-o", str(cut), "--num-processes", "2"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics = tmp_path / "cut.partial" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 3) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # what ctrl-C in a terminal does
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait() == 130, said
    assert "Traceback" not in said
    assert 3 <= len(losses(tmp_path / "cut.partial")) < 40
    assert "going on after step" in cai(*command[3:]).stderr
    assert losses(cut) == losses(whole)


def test_a_bad_file_ends_every_process_with_one_sentence(tiny: str, tmp_path: Path) -> None:
    bad = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Hi"}])
    done = cai("train-sft", bad, "-m", tiny, "-o", tmp_path / "out", "--num-processes", "2", code=2)
    assert done.stderr.count("nothing to learn from it") == 1
    assert "Traceback" not in done.stderr
    done = cai("train-sft", bad, "-m", tiny, "-o", tmp_path / "out", "--accelerate", "fsdp3", code=2)
    assert "neither multi-gpu nor fsdp2" in done.stderr


def test_without_the_flags_one_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from cai_cli.training import ranks

    assert ranks.launch(None, None) is None
    assert ranks.launch(None, 1) is None
    monkeypatch.setitem(os.environ, "RANK", "1")
    assert ranks.launch(None, 2) is None  # one of the processes already


@pytest.mark.parametrize(
    ("first", "second", "code"), [("wait", "os.abort()", 1), ("wait", "sys.exit(2)", 2), ("sys.exit(0)",) * 2 + (0,)]
)
def test_the_exit_code_is_that_of_the_process_that_failed(first: str, second: str, code: int) -> None:
    """Not of those that the launcher then ended, which say that they were interrupted."""
    wait = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); time.sleep(60)"
    body = f"import os, signal, sys, time\nif os.environ['RANK'] == '0':\n {first}\nelse:\n {second}".replace("wait", wait)
    run = f"import sys; from cai_cli.training import ranks; sys.exit(ranks._torchrun(2, ['-c', {body!r}]))"
    done = subprocess.run([sys.executable, "-c", run], cwd=ROOT, env=environment(), capture_output=True, timeout=120)
    assert done.returncode == code
