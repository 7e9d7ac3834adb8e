"""A run of a trainer: bad models and outputs, resuming, checkpoints, adapters, end tokens."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data.jsonl import Record
from cai_cli.errors import CaiError, InputError
from cai_cli.method import constitution
from cai_cli.training import pm, sft
from cai_cli.training.feedback import Feedback
from cai_cli.training.rl import Rollout
from tests.processes import cai, environment, start, wait_for_lines
from tests.rows import preferences, read_jsonl, revisions, rl_prompts, write_jsonl
from tests.tiny import ROOT
from tests.trainers import interrupt_at, kill_between_checkpoints, settings, train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_bad_models_and_outputs_are_named(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", revisions(2))
    (tmp_path / "not-a-model").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    for files, model, output, message in [
        ([good], str(tmp_path / "not-a-model"), "out", "not a model directory"),
        ([good], tiny_pm, "out", "a preference model, not a language model"),
        ([good], tiny, tiny, "is a model that this run starts from"),
        ([good], tiny, "full", "exists and holds other files"),
        ([good], tiny, "in.jsonl", "is a file; -o takes a directory"),
        ([str(tmp_path / "gone.jsonl")], tiny, "out", "no such file"),
        ([f"{good}=0"], tiny, "out", "the number after = must be positive"),
        (["-"], tiny, "out", "cannot read standard input"),
    ]:
        with pytest.raises(InputError) as caught:
            sft.train(settings("train-sft", files, model, tmp_path / output))
        assert message in str(caught.value)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "precious"
    with pytest.raises(InputError, match="every row was skipped"):
        sft.train(settings("train-sft", [good], tiny, tmp_path / "out", max_length=8))


def test_bad_input_is_known_before_torch_is_imported(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("{\n")
    code = f"""if True:
        import sys
        from cai_cli.main import main
        for command in (["train-sft"], ["train-pm"], ["rl", "--pm", {tiny!r}]):
            sys.argv = ["cai", *command, {str(tmp_path / "in.jsonl")!r}, "-m", {tiny!r}, "-o", {str(tmp_path / "out")!r}]
            try:
                main()
            except SystemExit as end:
                assert end.code == 2, end.code
        assert not {{"torch", "transformers", "trl", "datasets"}} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("in.jsonl:1: not valid JSON") == 2
    assert "not a preference model" in done.stderr
    assert done.stdout == ""


@pytest.mark.soak
def test_killed_and_interrupted_runs_resume(tiny: str, tmp_path: Path) -> None:
    """SIGKILL, then SIGTERM, then to the end: each step once, and the losses of an undisturbed run."""
    good = write_jsonl(tmp_path / "in.jsonl", revisions(30))
    flags = ["--steps", "100", "--save-every", "20", "--lr", "1e-3", "--batch-size", "8", "--grad-accum", "1"]
    flags += ["--dtype", "float32"]
    run = ["train-sft", good, "-m", tiny, "-o", str(tmp_path / "out"), *flags]
    partial = tmp_path / "out.partial"

    process = start(*run)
    wait_for_lines(partial / "metrics.jsonl", 30, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()

    other = settings("train-sft", [good], tiny, tmp_path / "out", steps=100, save_every=20, lr=2e-3, batch_size=8)
    with pytest.raises(InputError, match=r"changed: lr \(0.001 before, 0.002 now\).*--restart"):
        sft.train(other)

    process = start(*run)
    wait_for_lines(partial / "metrics.jsonl", 60, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "continuing after step" in errors
    assert "the same command continues from there" in errors

    done = cai(*run)
    assert done.stdout == ""
    assert "continuing after step" in done.stderr
    assert "step 100 of 100" in done.stderr
    metrics = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 101))
    assert not partial.exists()

    whole = cai(*run[:5], str(tmp_path / "whole"), *flags, "--quiet")
    assert whole.stderr == ""
    expected = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    assert [line["loss"] for line in metrics] == [line["loss"] for line in expected]
    assert metrics[-1]["tokens"] == expected[-1]["tokens"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("step", "judge"),
    [
        ("rl", "--pm"),
        *(pytest.param(*each, marks=pytest.mark.soak) for each in (("train-sft", ""), ("train-pm", ""), ("train-dpo", ""))),
        pytest.param("rl", "--feedback", marks=pytest.mark.soak),
    ],
)
def test_a_killed_run_ends_like_an_undisturbed_one(
    step: str, judge: str, tiny: str, tiny_pm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses, learning rates and final weights, after a real SIGKILL between two checkpoints."""
    rows = {"train-sft": revisions(30), "rl": rl_prompts(7)}.get(step, preferences())
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    command = [step, source, "-m", tiny, "-o", str(tmp_path / "out"), "--steps", "40", "--save-every", "8", "--lr", "1e-3"]
    command += ["--dtype", "float32", "--save-dtype", "float32", "--batch-size", "4", "--grad-accum", "2", "--max-length", "512"]
    model = tiny_pm if judge == "--pm" else tiny
    command += [judge, model, "--max-tokens", "8", "--num-generations", "4"] if step == "rl" else []
    given = {"lr": 1e-3, "batch_size": 4, "grad_accum": 2, "max_length": 512, "steps": 40, "save_every": 8}

    def run(output: str) -> list[Record]:
        feedback = Feedback([tiny], constitution.load("default")) if judge == "--feedback" else None
        pms = [tiny_pm] if judge == "--pm" else []
        rollout = Rollout(pms, max_tokens=8, max_kl=0.5, feedback=feedback) if step == "rl" else None
        train(settings(step, [source], tiny, tmp_path / output, **given, quiet=False), rollout)
        return read_jsonl(tmp_path / output / "metrics.jsonl")

    logged = kill_between_checkpoints(command, tmp_path / "out.partial" / "metrics.jsonl", 8)
    checkpoints = (tmp_path / "out.partial" / "checkpoints").iterdir()
    last = max(int(path.name.rpartition("-")[2]) for path in checkpoints if (path / "complete").exists())
    assert 0 < logged - last <= 8  # no more is lost than the steps since the last checkpoint
    resumed = run("out")
    assert f"continuing after step {last}\n" in capsys.readouterr().err
    whole = run("whole")
    for key in ("step", "loss", "learning_rate", "grad_norm", "tokens", "epoch", *(("reward", "kl") if step == "rl" else ())):
        assert [line[key] for line in resumed] == [line[key] for line in whole], key
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("step", ["train-sft", "train-pm", "train-dpo", "rl"])
def test_a_finished_model_is_trained_again_only_if_something_changed(
    step: str, tiny: str, tiny_pm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"train-sft": revisions(8), "rl": rl_prompts(4)}.get(step, preferences())
    source, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out"
    rollout = Rollout([tiny_pm], max_tokens=4) if step == "rl" else None
    run = settings(step, [source], tiny, out, steps=1, quiet=False, lora=True)

    def again(**changed: Any) -> tuple[Any, str]:
        for name, value in changed.items():
            setattr(run, name, value)
        capsys.readouterr()
        return train(run, rollout), capsys.readouterr().err

    assert again()[0] is not None
    (out / "mine.txt").touch()
    done, said = again()
    assert done is None
    assert f"cai {step}: already done: {out}; --restart trains again\n" in said
    assert (out / "mine.txt").exists()
    assert not Path(f"{out}.partial").exists()
    if step == "train-sft":
        changes: list[tuple[dict[str, Any], str]] = [
            ({"seed": 1}, "seed (0 before, 1 now)"),
            ({"keep_adapter": True}, "keep_adapter (false before, true now)"),
        ]
        for change, phrase in changes:
            done, said = again(**change)
            assert done is not None
            assert f"replaces {out}, a finished output of another run; changed: {phrase}\n" in said
        assert again(restart=True)[0] is not None
        (out / "adapter_model.safetensors").unlink()
        assert again(restart=False)[0] is not None


def test_a_damaged_checkpoint_is_one_sentence(tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", preferences())
    run = settings("train-pm", [source], tiny, tmp_path / "out", steps=40, save_every=3)
    interrupt_at(tmp_path / "out.partial" / "metrics.jsonl", 5)
    with pytest.raises(KeyboardInterrupt):
        pm.train(run)
    (checkpoint,) = (tmp_path / "out.partial" / "checkpoints").iterdir()
    (checkpoint / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CaiError, match=r"this checkpoint is damaged .* start over with --restart"):
        pm.train(run)
    run.restart = True
    pm.train(run)
    assert len(read_jsonl(tmp_path / "out" / "metrics.jsonl")) == 40


@pytest.mark.parametrize("step", ["train-sft", "train-pm", "rl"])
def test_adapters_are_merged_or_kept(step: str, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    """A merged adapter gives an ordinary model that differs from the start; a kept one gives, with peft, the same weights."""
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    rows = {"train-pm": preferences(), "rl": rl_prompts(4)}.get(step, revisions(8))
    source = write_jsonl(tmp_path / "in.jsonl", rows)

    def run(output: str, **more: Any) -> Path:
        given = {"lr": 1e-2, "batch_size": 4, "max_length": 512, "steps": 4, "lora": True, "lora_rank": 4, **more}
        rollout = Rollout([tiny_pm], max_tokens=8) if step == "rl" else None
        train(settings(step, [source], tiny, tmp_path / output, **given), rollout)
        return tmp_path / output

    merged = run("merged")
    kind = AutoModelForSequenceClassification if step == "train-pm" else AutoModelForCausalLM
    after = kind.from_pretrained(merged)
    before = AutoModelForCausalLM.from_pretrained(tiny)
    projections = [model.model.layers[0].mlp.down_proj.weight for model in (before, after)]
    assert not torch.equal(*projections)
    assert not (merged / "adapter_config.json").exists()
    if step == "train-pm":
        head: Any = after.score
        assert head.weight.abs().sum() > 0
        return
    kept = run("kept", keep_adapter=True)
    assert (kept / "adapter_model.safetensors").exists()
    adapted: Any = AutoPeftModelForCausalLM.from_pretrained(kept)
    loaded = adapted.merge_and_unload()
    again = loaded.model.layers[0].mlp.down_proj.weight
    assert torch.allclose(again, projections[1], atol=1e-6)


def test_the_trained_end_token_ends_generation(tiny: str, tmp_path: Path) -> None:
    """The base model's end token is not the template's: otherwise every answer of the new model would run to --max-tokens."""
    from transformers import AutoTokenizer, GenerationConfig

    shutil.copytree(tiny, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    turn_end = tokenizer.eos_token_id
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(tmp_path / "base")
    GenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(tmp_path / "base")
    source = write_jsonl(tmp_path / "in.jsonl", revisions(4))
    sft.train(settings("train-sft", [source], str(tmp_path / "base"), tmp_path / "out", steps=1))
    assert turn_end in GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
