"""A run in two processes (torchrun, gloo): it trains what one process trains on the same global batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cai_cli import grade
from cai_cli.engines import models
from cai_cli.errors import InputError
from cai_cli.training import ranks
from tests.processes import cai, count_lines, environment, start, wait_for_lines
from tests.rows import preferences, read_jsonl, revisions, rl_prompts, write_jsonl
from tests.tiny import ROOT
from tests.trainers import settings, train

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


@pytest.mark.parametrize(
    "step", ["train-sft", *(pytest.param(name, marks=pytest.mark.soak) for name in ("train-pm", "train-dpo"))]
)
def test_losses_of_two_processes_equal_those_of_one(tiny: str, tmp_path: Path, step: str) -> None:
    """Two processes of four rows or one of eight, over two passes: the same losses, to 1e-5, learning rates and tokens."""
    source = write_jsonl(tmp_path / "in.jsonl", revisions(24) if step == "train-sft" else preferences(24))
    flags = ("--steps", 6, "--lr", 1e-3, "--dtype", "float32", "--grad-accum", 1, "--batch-size", 4, "--max-length", 512)
    two, one = tmp_path / "2", tmp_path / "1"
    done = cai(step, source, "-m", tiny, "-o", two, *flags, "--num-processes", "2", "--eval", source)
    assert done.stdout == ""
    assert done.stderr.count("6 steps") == 1  # only the first process reports
    train(settings(step, [source], tiny, one, steps=6, batch_size=8, eval=[source], max_length=512))
    assert json.loads((two / "manifest.json").read_text())["processes"] == 2
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    keys = ("learning_rate", "tokens", "grad_norm", "eval_loss")
    for key in keys[: 3 if step == "train-sft" else 4]:  # SFT's eval_loss is a mean of batch means, and a batch has 4 rows or 8
        found = [[line[key] for line in read_jsonl(folder / "metrics.jsonl") if key in line] for folder in (two, one)]
        assert len(found[0]) >= 3
        assert found[0] == pytest.approx(found[1], abs=1e-4), key


@pytest.mark.soak
def test_in_two_processes_each_answer_has_its_grade_and_all_tokens_are_counted(tiny: str, tmp_path: Path) -> None:
    """A process computes once what its own prompts share, so the number of tokens is not exactly that of one process."""
    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(4))
    common = ("rl", source, "-m", tiny, "--feedback", tiny, "--steps", 1, "--num-generations", 2, "--max-tokens", 6)
    tokens = []
    for processes, batch in ((1, 2), (2, 1)):
        out = tmp_path / str(processes)
        flags = ("--dtype", "float32", "--grad-accum", 1, "--batch-size", batch, "--num-processes", processes)
        cai(*common, *flags, "--samples-every", 1, "-o", out)
        tokens.append(read_jsonl(out / "metrics.jsonl")[0]["feedback_tokens"])
        samples = read_jsonl(out / "samples.jsonl")
        assert len(samples) == 4
        for sample in samples:
            [(name, value)] = sample["principles"].items()
            [graded] = grade([sample], tiny, constitution="default", principles=name, dtype="float32")
            assert sample["reward"] == value == pytest.approx(graded["grades"][name]["yes"], abs=1e-4)
    assert tokens[1] > 0.5 * tokens[0]  # the mean over the processes would be a third


SHARDED = """
import os, runpy
from accelerate import state
from accelerate.utils import DistributedType

os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
made = state.AcceleratorState.__init__

def make(self, *args, **more):  # Accelerate shards weights on GPUs only; torch can on CPUs too
    made(self, *args, **more)
    self.distributed_type = DistributedType.FSDP
    if more.get("fsdp_plugin"):
        self.fsdp_plugin = more["fsdp_plugin"]

state.AcceleratorState.__init__ = make
runpy.run_module("cai_cli.main", run_name="__main__")
"""


@pytest.mark.soak
@pytest.mark.parametrize("lora", [True, False])
def test_sharded_weights_are_trained_and_saved_whole(lora: bool, tiny: str, tmp_path: Path) -> None:
    """The losses and the saved model of a run that does not shard; an adapter is merged."""
    source = write_jsonl(tmp_path / "in.jsonl", revisions(24))
    (tmp_path / "sharded.py").write_text(SHARDED)
    flags = ["--steps", "3", "--lr", "1e-2", "--dtype", "float32", "--save-dtype", "float32", *(["--lora"] if lora else [])]
    flags = ["train-sft", source, "-m", tiny, *flags, "-o"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "sharded.py"),
         *flags, str(tmp_path / "sharded")],
        cwd=ROOT, env={**environment(), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cai(*flags, tmp_path / "whole", "--num-processes", "2")
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    saved, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("sharded", "whole"))
    assert saved.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(saved[name], expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.soak
def test_rl_runs_on_two_ranks_with_equal_replicas(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(6))
    run = asdict(settings("rl", [source], tiny, tmp_path / "rl", steps=4))
    (tmp_path / "inside.py").write_text(INSIDE)
    given = {"settings": run, "rollout": {"pms": [tiny_pm], "max_tokens": 8}, "out": str(tmp_path)}
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
    assert len(samples) == 16  # two processes, two prompts each, four answers per prompt
    assert len({entry["source_id"] for entry in samples}) == 4


@pytest.mark.soak
def test_an_interrupted_run_of_two_processes_resumes(tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "sft.jsonl", revisions(24))
    flags = ["-m", tiny, "--steps", "40", "--lr", "1e-3", "--dtype", "float32", "--batch-size", "2", "--grad-accum", "1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    cai("train-sft", source, *flags, "-o", whole, "--num-processes", "2")
    command = ("train-sft", source, *flags, "-o", cut, "--num-processes", "2")
    process = start(*command, new_group=True)
    metrics = tmp_path / "cut.partial" / "metrics.jsonl"
    wait_for_lines(metrics, 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as ctrl-C in a terminal does
    message = process.communicate()[1]
    assert process.returncode == 130, message
    assert "Traceback" not in message
    done = count_lines(metrics)
    assert 3 <= done < 40
    assert f"continuing after step {done}\n" in cai(*command).stderr
    assert losses(cut) == losses(whole)


def test_a_bad_file_ends_every_process_with_one_sentence(tiny: str, tmp_path: Path) -> None:
    bad = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Hi"}])
    done = cai("train-sft", bad, "-m", tiny, "-o", tmp_path / "out", "--num-processes", "2", code=2)
    assert done.stderr.count("nothing to train on") == 1
    assert "Traceback" not in done.stderr
    done = cai("train-sft", bad, "-m", tiny, "-o", tmp_path / "out", "--accelerate", "fsdp3", code=2)
    assert "neither multi-gpu nor fsdp2" in done.stderr


class Launched(Exception):
    """Raised in place of the launcher, with its command."""


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Fakes a machine with so many GPUs."""

    def launcher(_: str, command: list[str]) -> None:
        assert os.environ.pop(ranks._LAUNCHED) == "1"
        raise Launched(" ".join(command[3:]))

    def set_count(count: int) -> None:
        monkeypatch.setattr(ranks, "visible_gpus", lambda: count)
        monkeypatch.setattr(models, "device", lambda: "cuda" if count else "cpu")

    monkeypatch.setattr(os, "execv", launcher)
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "RANK")})
    monkeypatch.setattr(sys, "argv", ["cai", "train-pm", "x.jsonl"])
    return set_count


def test_a_trainer_uses_every_gpu_unless_told_otherwise(gpus: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    for count in (0, 1):
        gpus(count)
        assert ranks.launch("train-pm", None, None) is None
        assert capsys.readouterr().err == ""
    gpus(4)
    with pytest.raises(Launched, match=r"--multi_gpu --num_processes 4 -m cai_cli.main train-pm x.jsonl"):
        ranks.launch("train-pm", None, None)
    assert "training on 4 GPUs, one process each; --num-processes 1 uses only one" in capsys.readouterr().err
    with pytest.raises(Launched, match=r"--fsdp_version 2 .* --num_processes 4"):
        ranks.launch("train-pm", "fsdp2", None)
    with pytest.raises(InputError, match="--num-processes 8: there is a process per GPU, and only 4 GPUs here"):
        ranks.launch("train-pm", None, 8)


@pytest.mark.parametrize(("visible", "used"), [(None, "0"), ("2,3", "2")])
def test_one_process_sees_one_gpu(gpus: Callable[[int], None], visible: str | None, used: str) -> None:
    """With several, transformers would use DataParallel, and TRL's trainers would refuse to run."""
    gpus(2)
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    assert ranks.launch("rl", None, 1) is None
    assert ranks.launch("rl", "multi-gpu", 1) is None  # Accelerate refuses to launch one process so
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == used


def test_flags_that_start_processes_are_refused_in_a_process_that_a_launcher_started(
    gpus: Callable[[int], None],
) -> None:
    gpus(2)
    os.environ["RANK"] = "1"
    assert ranks.launch("rl", None, None) is None
    with pytest.raises(InputError, match=r"--num-processes: another launcher has started this process already \(RANK is set\)"):
        ranks.launch("rl", None, 2)
    with pytest.raises(InputError, match="--accelerate: another"):
        ranks.launch("rl", "fsdp2", None)
    os.environ[ranks._LAUNCHED] = "1"  # the processes that cai starts have the flags of the command that started them
    assert ranks.launch("rl", "fsdp2", 2) is None
    del os.environ["RANK"]  # a configuration of Accelerate for one process sets none
    assert ranks.launch("rl", "fsdp2", 2) is None


@pytest.mark.parametrize(
    ("first", "second", "code"), [("wait", "os.abort()", 1), ("wait", "sys.exit(2)", 2), ("sys.exit(0)",) * 2 + (0,)]
)
def test_the_exit_code_is_that_of_the_process_that_failed(first: str, second: str, code: int) -> None:
    """The others are then ended by the launcher, and exit as interrupted."""
    wait = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); time.sleep(60)"
    body = f"import os, signal, sys, time\nif os.environ['RANK'] == '0':\n {first}\nelse:\n {second}".replace("wait", wait)
    run = f"import sys; from cai_cli.training import ranks; sys.exit(ranks._torchrun(2, ['-c', {body!r}]))"
    done = subprocess.run([sys.executable, "-c", run], cwd=ROOT, env=environment(), capture_output=True, timeout=120)
    assert done.returncode == code
