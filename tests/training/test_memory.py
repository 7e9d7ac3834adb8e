"""What a run needs is known before it loads anything, and decides whether and how it runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cai_cli.engines import models
from cai_cli.errors import InputError
from cai_cli.training import memory
from cai_cli.training.memory import Load
from tests.conftest import Here
from tests.processes import CAI, environment
from tests.rows import preferences, revisions, rl_prompts, write_jsonl
from tests.tiny import ROOT
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")
LOAD = Load(rows=4, tokens=64)


@pytest.fixture
def run(tiny: str, tmp_path: Path) -> Any:
    """The settings of a run with full weights in bfloat16."""
    return settings("train-sft", [], tiny, tmp_path / "out", dtype="bfloat16")


def test_each_part_has_its_known_size(run: Any, tiny: str) -> None:
    folder = Path(tiny)
    count = models.parameters(folder)
    whole = memory.need(folder, run, LOAD, False)
    assert whole["weights"] == whole["gradients"] == 4 * count
    assert whole["optimizer"] == 8 * count
    assert memory.need(folder, replace(run, optim="adamw_8bit"), LOAD, False)["optimizer"] == 2 * count
    assert memory.need(folder, run, replace(LOAD, reference=True, scorers=77), False) == {
        **whole, "reference model": 4 * count, "preference models": 77, "program": pytest.approx(whole["program"], rel=0.1)
    }  # fmt: skip
    adapted = memory.need(folder, replace(run, lora=True, lora_rank=2), LOAD, False)
    assert 2 * count < adapted["weights"] < 3 * count  # bfloat16, and the adapters in float32
    assert adapted["optimizer"] < whole["optimizer"] / 4
    quantised = memory.need(folder, replace(run, lora=True, lora_rank=2, load_in_4bit=True), LOAD, False)
    assert quantised["weights"] < adapted["weights"]
    twice = memory.need(folder, run, replace(LOAD, rows=16), False)
    assert 3 * whole["activations"] < twice["activations"] < 5 * whole["activations"]


@pytest.mark.parametrize(("classifier", "lora"), [(False, True), (True, False)])
def test_a_deep_model_is_told_from_its_first_layers(
    classifier: bool, lora: bool, run: Any, tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tiny)
    config.num_hidden_layers = 9
    config.save_pretrained(tmp_path / "deep")
    load, changed = replace(LOAD, classifier=classifier), replace(run, lora=lora)
    told = memory.need(tmp_path / "deep", changed, load, False)
    checkpointed = memory.need(tmp_path / "deep", changed, load, True)
    monkeypatch.setattr(memory, "FEW", (9, 9))
    whole = memory.need(tmp_path / "deep", changed, load, False)
    for name in whole.keys() - {"program"}:
        assert told[name] == pytest.approx(whole[name], rel=0.02), name
    assert checkpointed["activations"] < 0.9 * told["activations"]


def test_experts_are_estimated_and_what_cannot_be_is_named(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Qwen3MoeConfig

    Qwen3MoeConfig(
        vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_experts=8, moe_intermediate_size=64,
    ).save_pretrained(tmp_path)  # fmt: skip
    weights = 2 * 8 * 3 * 64 * 64  # of the experts alone
    assert memory.need(tmp_path, run, LOAD, False)["weights"] > 4 * weights
    monkeypatch.setattr(memory, "_peak", lambda *_: 1 / 0)
    with pytest.raises(memory.Unknown, match=r"could not estimate the memory \(division by zero\)"):
        memory.need(tmp_path, run, LOAD, False)


def test_checkpointing_is_used_only_if_it_is_needed(
    run: Any, tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, load = Path(tiny), replace(LOAD, rows=32, tokens=200)
    monkeypatch.setattr(models, "device", lambda: "cuda")
    without, with_it = (memory.total(memory.need(folder, run, load, on)) for on in (False, True))
    assert with_it < without

    def decide(there: int, **changed: Any) -> bool:
        monkeypatch.setattr(models, "memory", lambda: there)
        return memory.checkpointing(folder, replace(run, quiet=False, **changed), load)

    assert decide(2 * without) is False
    assert "gradient checkpointing off" in capsys.readouterr().err
    assert decide(without) is True
    assert decide(2 * without, gradient_checkpointing="on") is True
    assert decide(without, gradient_checkpointing="off") is False
    with pytest.raises(InputError, match=r"does not fit: .* GiB per process .*It fits with --batch-size 1 --grad-accum 4"):
        decide(with_it - 1)
    with pytest.raises(InputError, match="Use a smaller model, or shard it over more GPUs with --accelerate fsdp2"):
        decide(2**20)


def test_a_run_beside_a_large_process_is_warned(
    run: Any, tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = memory.need(Path(tiny), run, LOAD, False)
    needed = memory.total({name: size for name, size in found.items() if name != "program"})  # the process holds that already
    monkeypatch.setattr(models, "memory", lambda: 1000 * needed)
    for free, warned in ((needed // 2, True), (2 * needed, False), (999 * needed, False)):
        monkeypatch.setattr(models, "free_memory", lambda free=free: free)
        assert memory.checkpointing(Path(tiny), run, LOAD) is False
        assert ("other processes leave" in capsys.readouterr().err) == warned


def test_plan_prints_what_a_run_needs_and_makes_nothing(tiny: str, tiny_pm: str, tmp_path: Path, here: Here) -> None:
    files = {"train-sft": revisions(8), "train-pm": preferences(), "train-dpo": preferences(), "rl": rl_prompts(4)}
    for step, rows in files.items():
        source = write_jsonl(tmp_path / f"{step}.jsonl", rows)
        more = ["--pm", tiny_pm, "--max-tokens", "8"] if step == "rl" else []
        out = here("plan", step, source, "-m", tiny, "-o", tmp_path / "out", "--max-length", 512, *more).out
        assert [line.split("  ")[0] for line in out.splitlines()][:3] == ["GiB per process", "weights", "gradients"]
        assert ("reference model" in out) == (step in ("train-dpo", "rl"))
        assert ("preference models" in out) == (step == "rl")
        assert "smallest usual GPU" in out
    assert not list(tmp_path.glob("out*"))
    done = here("train-sft", tmp_path / "train-sft.jsonl", "-m", tiny, "-o", tmp_path / "out", "--steps", 1)
    assert "-> " in done.err  # a command after a plan runs
    here("plan", "train-sft", tmp_path / "train-sft.jsonl", "-m", tiny_pm, "-o", tmp_path / "out2", code=2)


def test_a_plan_is_for_the_processes_and_the_gpu_that_are_asked_for(tiny: str, tmp_path: Path, here: Here) -> None:
    folder = tmp_path / "no-weights"  # as `cai plan -m OWNER/MODEL` downloads it
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    command = ["train-sft", write_jsonl(tmp_path / "in.jsonl", revisions(8)), "-m", folder, "-o", tmp_path / "out"]
    written = tmp_path / "accelerate.yaml"
    written.write_text("distributed_type: FSDP\nnum_processes: 4\n")

    alone = here("plan", "--gpu", 80, *command).out
    assert alone.splitlines()[0].startswith("GiB per process")
    assert ["program", "1.00", "1.00"] in [line.split() for line in alone.splitlines()]  # CUDA's, not this program's
    copies = here("plan", "--gpu", 80, *command, "--num-processes", 4).out
    assert "GiB in each of 4 processes" in copies
    assert "gradients to exchange" in copies
    for flags in (("--accelerate", "fsdp2", "--num-processes", 4), ("--accelerate", written)):
        assert "gathered layers" in here("plan", "--gpu", 80, *command, *flags).out
    missing = here("plan", *command, "--accelerate", "fsdp2", code=2).err
    assert "there is no GPU here; give the number of processes with --num-processes" in missing
    here(*command, code=2)  # a run needs the weights
    assert models.device() == "cpu"


MEASURE = """
import resource, runpy, sys
sys.argv = ["cai", *sys.argv[1:]]
try: runpy.run_module("cai_cli.main", run_name="__main__")
except SystemExit: pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.soak
@pytest.mark.parametrize(
    "flags", [("train-sft",), ("train-sft", "--lora"), ("train-pm",), ("train-dpo",), ("train-dpo", "--precompute-ref")]
)
def test_the_estimate_is_within_15_percent_of_the_peak(flags: tuple[str, ...], real: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": f"r{i}",
            "prompt": "the cat sat " * 8,
            "response": "on the mat " * 150,
            "chosen": "on a mat " * 75,
            "rejected": "at home " * 80,
        }
        for i in range(24)
    ]
    kept = ("id", "prompt", "response") if flags[0] == "train-sft" else ("id", "prompt", "chosen", "rejected")
    source = write_jsonl(tmp_path / "in.jsonl", [{key: row[key] for key in kept} for row in rows])
    command = [*flags, source, "-m", str(real), "-o", str(tmp_path / "out"), "--steps", "3"]
    planned = subprocess.run([*CAI, "plan", *command], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    told = float(next(line for line in planned.stdout.splitlines() if line.startswith("total")).split()[3]) * 2**30
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert told == pytest.approx(float(run.stdout.splitlines()[-1]), rel=0.15)
