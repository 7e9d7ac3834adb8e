"""What all trainers share: evaluation, adapters, packing, the model card, and stopping and going on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cai_cli.errors import CaiError, InputError
from cai_cli.evaluation import preference
from cai_cli.training import dpo, order, pm, rl, sft
from cai_cli.training.shaping import Shaping, boilerplate, is_refusal
from tests import test_training_dpo, test_training_pm, test_training_rl, test_training_sft
from tests.test_training_pm import pair
from tests.tiny import ROOT, environment, read_jsonl, write_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")
PAIRS = [pair(i, 0.5 + i / 40, chosen=f"It is {'very ' * (i % 5)}good.") for i in range(20)]
FLAGS = {"lr": 1e-3, "dtype": "float32", "batch_size": 4, "grad_accum": 1, "max_length": 512}


# Stopping and going on ----------------------------------------------------------------------------


def kill_between_checkpoints(command: list[str], metrics: Path, save_every: int) -> int:
    """Run a trainer as a process, SIGKILL it one or two steps after its second checkpoint; returns the steps then logged."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cai_cli.main", *command], cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        if lines > 2 * save_every and lines % save_every:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return lines
        time.sleep(0.002)
    process.kill()
    pytest.fail(f"ended before it could be killed: {process.communicate()}")


@pytest.mark.parametrize("step", ["train-sft", "train-pm", "train-dpo", "rl"])
def test_a_killed_run_ends_as_one_that_nothing_stopped(step: str, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    """Losses, learning rates and final weights, after a real SIGKILL between two checkpoints."""
    rows = {"train-sft": test_training_sft.rows(30), "rl": test_training_rl.asked(7)}.get(step, PAIRS)
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    command = [step, source, "-m", tiny, "-o", str(tmp_path / "out"), "--steps", "60", "--save-every", "8", "--lr", "1e-3"]
    command += ["--dtype", "float32", "--batch-size", "4", "--grad-accum", "2", "--max-length", "512"]
    command += ["--pm", tiny_pm, "--max-tokens", "8"] if step == "rl" else []
    given: dict[str, Any] = {**FLAGS, "steps": 60, "save_every": 8, "grad_accum": 2}

    def run(output: str) -> list[dict[str, Any]]:
        if step == "rl":
            settings = test_training_rl.settings([source], tiny, tmp_path / output, **given)
            rl.train(settings, rl.Rollout([tiny_pm], max_tokens=8, max_kl=0.5))
        else:
            module = {"train-sft": sft, "train-pm": pm, "train-dpo": dpo}[step]
            tests = {"train-sft": test_training_sft, "train-pm": test_training_pm, "train-dpo": test_training_dpo}[step]
            module.train(tests.settings([source], tiny, tmp_path / output, **given))
        return read_jsonl(tmp_path / output / "metrics.jsonl")

    logged = kill_between_checkpoints(command, tmp_path / "out.partial" / "metrics.jsonl", 8)
    left = [path.name for path in (tmp_path / "out.partial" / "checkpoints").iterdir() if (path / "complete").exists()]
    assert left
    assert 0 < logged - int(left[0].rpartition("-")[2]) <= 8  # no more is lost than since the last checkpoint
    resumed, whole = run("out"), run("whole")
    for key in ("step", "loss", "learning_rate", "grad_norm", "tokens", "epoch", *(("reward", "kl") if step == "rl" else ())):
        assert [line[key] for line in resumed] == [line[key] for line in whole], key
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert weights[0] == weights[1]


def test_a_damaged_checkpoint_is_one_sentence(tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", PAIRS)
    run = test_training_pm.settings([source], tiny, tmp_path / "out", steps=40, save_every=3)
    test_training_rl.interrupt_at(tmp_path / "out.partial" / "metrics.jsonl", 5)
    with pytest.raises(KeyboardInterrupt):
        pm.train(run)
    (checkpoint,) = (tmp_path / "out.partial" / "checkpoints").iterdir()
    (checkpoint / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CaiError, match=r"this checkpoint is damaged .* begin anew with --restart"):
        pm.train(run)
    run.restart = True
    pm.train(run)
    assert len(read_jsonl(tmp_path / "out" / "metrics.jsonl")) == 40


# What stands beside the model ---------------------------------------------------------------------


def test_the_directory_says_what_it_was_trained_on(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model card, a plot, and hashes; a file's name is text, not markup."""
    monkeypatch.delenv("COLUMNS", raising=False)
    odd = tmp_path / "a|b<script>`.jsonl"
    source = write_jsonl(odd, [pair(i, 0.9, chosen="It is very good. " * (1 + i % 5)) for i in range(20)])
    pm.train(test_training_pm.settings([f"{source}=2"], tiny, tmp_path / "out", steps=3, eval_fraction=0.3, quiet=False))
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("the better answer is longer ") and "to" in line for line in lines)  # not wrapped in a file
    card = (tmp_path / "out" / "README.md").read_text()
    assert "<script>" not in card
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert "library_name: transformers" in head
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["inputs"][0]["sha256"][:16] in body
    assert "| 20 | 2 |" in body
    assert "eval_loss" in body
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")
    groups = [row["group"] for row in manifest["evaluation"]["pairs"]]
    assert groups[0] == "all"
    assert "the better answer is longer" in groups


def test_records_of_eval_that_are_trained_on_are_said(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", PAIRS[:4])
    other = write_jsonl(tmp_path / "eval.jsonl", PAIRS[2:6])
    pm.train(test_training_pm.settings([source], tiny, tmp_path / "out", steps=1, eval=[other]))
    assert "2 records of --eval are trained on too" in capsys.readouterr().err
    with pytest.raises(InputError, match="give one of them"):
        pm.train(test_training_pm.settings([source], tiny, tmp_path / "out2", eval=[other], eval_fraction=0.1))


@pytest.mark.parametrize("step", ["train-sft", "train-pm", "rl"])
def test_adapters_are_merged_or_kept(step: str, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    """Merged it is an ordinary model that differs from the start; kept, an adapter of it that peft loads to the same weights."""
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    source = write_jsonl(
        tmp_path / "in.jsonl", {"train-pm": PAIRS, "rl": test_training_rl.asked(4)}.get(step, test_training_sft.rows(8))
    )

    def run(output: str, **more: Any) -> Path:
        given = {**FLAGS, "lr": 1e-2, "steps": 4, "lora": True, "lora_rank": 4, **more}
        if step == "rl":
            settings = test_training_rl.settings([source], tiny, tmp_path / output, **given)
            rl.train(settings, rl.Rollout([tiny_pm], max_tokens=8))
        else:
            tests = {"train-sft": test_training_sft, "train-pm": test_training_pm}[step]
            {"train-sft": sft, "train-pm": pm}[step].train(tests.settings([source], tiny, tmp_path / output, **given))
        return tmp_path / output

    merged = run("merged")
    kind = AutoModelForSequenceClassification if step == "train-pm" else AutoModelForCausalLM
    after = kind.from_pretrained(merged)
    before = AutoModelForCausalLM.from_pretrained(tiny)
    projections = [model.model.layers[0].mlp.down_proj.weight for model in (before, after)]
    assert not torch.equal(*projections)
    assert not (merged / "adapter_config.json").exists()
    if step == "train-pm":
        assert after.score.weight.abs().sum() > 0
        return
    kept = run("kept", keep_adapter=True)
    assert (kept / "adapter_model.safetensors").exists()
    loaded = AutoPeftModelForCausalLM.from_pretrained(kept).merge_and_unload()
    again = loaded.model.layers[0].mlp.down_proj.weight
    assert torch.allclose(again, projections[1], atol=1e-6)


# Order and packing --------------------------------------------------------------------------------


def test_steps_hold_examples_of_like_length() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(5, 200, 1000).tolist()
    found = order.grouped(lengths, 2500, 8, seed=1)
    assert found == order.grouped(lengths, 2500, 8, seed=1) != order.grouped(lengths, 2500, 8, seed=2)
    assert len(found) == 2500
    assert {found.count(i) for i in range(1000)} <= {2, 3}  # two passes and a half

    def padded(sequence: list[int]) -> int:
        return sum(8 * max(lengths[i] for i in sequence[at : at + 8]) for at in range(0, 2496, 8))

    drawn = order.passes(1000, 2500, seed=1)
    assert padded(found) < 1.1 * sum(lengths[i] for i in found)
    assert padded(drawn) > 1.5 * sum(lengths[i] for i in drawn)
    first = [max(lengths[i] for i in found[at : at + 8]) for at in range(0, 400, 8)]
    assert first != sorted(first)  # long and short steps follow each other at random


def test_packed_examples_do_not_see_each_other(tiny: str, tmp_path: Path) -> None:
    """One row that holds all examples has the loss that they have one by one."""
    rows = test_training_sft.rows(6)
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    packed = test_training_sft.settings([source], tiny, tmp_path / "packed", steps=1, batch_size=1, max_length=512)
    sft.train(packed, packing=True)
    sft.train(
        test_training_sft.settings([source], tiny, tmp_path / "plain", steps=1, batch_size=12, grad_accum=1, max_length=512)
    )
    (one,), (other,) = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("packed", "plain"))
    assert one["tokens"] == other["tokens"]
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)


# RL's reward and what it watches ------------------------------------------------------------------


def test_the_reward_is_shaped_as_said() -> None:
    shaping = Shaping(cap=2.0, length_penalty=0.5, unfinished_penalty=3.0)
    assert shaping.reward(5.0, "Yes.", 0, True) == 2.0
    assert shaping.reward(1.0, "Yes.", 200, True) == pytest.approx(0.0)
    assert shaping.reward(1.0, "Yes", 0, False) == -2.0
    assert shaping.reward(1.0, " ...", 0, True) == -2.0
    assert Shaping().reward(5.0, "", 1000, False) == 5.0


def test_refusals_and_boilerplate_are_counted() -> None:
    for text in ("I'm sorry, but I can't help.", "I cannot do that.", "As an AI language model, I", "I\u2019m not able to say"):
        assert is_refusal(text), text
    for text in ("Sorry is a hard word to say, says the song.", "You can't park there.", "Use a long pole. " * 20 + "I can't."):
        assert not is_refusal(text), text
    same = "I am a friendly assistant who likes to help you."
    assert boilerplate(["a", "b", "c"], [same, same + " Bye.", "Something else is said here today."]) == pytest.approx(2 / 3)
    assert boilerplate(["a", "a"], [same, same]) == 0  # answers to one prompt may well begin alike


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_several_preference_models_a_cap_and_a_stop(algo: str, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    from tests import tiny as make

    other = make.tiny_pm(tmp_path / "other", seed=5)
    source = write_jsonl(tmp_path / "in.jsonl", test_training_rl.asked(6))
    held_out = write_jsonl(tmp_path / "eval.jsonl", [{"id": f"e{i}", "prompt": f"What is {i}?"} for i in range(3)])
    run = test_training_rl.settings([source], tiny, tmp_path / "out", steps=40, lr=1e-2, eval=[held_out])
    shaping = Shaping(cap=0.3, length_penalty=1.0, unfinished_penalty=0.5)
    rollout = rl.Rollout(
        [tiny_pm, f"{other}=0.5"], algo, 0.05, 4, 8, shaping=shaping, samples_every=1, max_kl=0.05, stop_on_kl=True
    )
    rl.train(run, rollout)
    metrics = [line for line in read_jsonl(tmp_path / "out" / "metrics.jsonl") if "loss" in line]
    assert {"score", "reward", "kl", "entropy", "length", "refusals", "boilerplate", "empty", "unfinished"} <= set(metrics[0])
    assert "eval_reward" in read_jsonl(tmp_path / "out" / "metrics.jsonl")[0]
    samples = read_jsonl(tmp_path / "out" / "samples.jsonl")
    assert {entry["id"][0] for entry in samples} == {"q"}  # what is held out is measured, not written among them
    for entry in samples[:24]:
        assert entry["score"] == pytest.approx(entry["scores"][0] + 0.5 * entry["scores"][1], abs=1e-5)
        bad = 0.5 if not entry["finished"] or not any(c.isalnum() for c in entry["response"]) else 0
        assert entry["reward"] == pytest.approx(min(entry["score"], 0.3) - entry["tokens"] / 100 - bad, abs=1e-5)
    assert len(metrics) < 40
    assert metrics[-1]["kl"] > 0.05 >= metrics[-2]["kl"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "above --max-kl" in manifest["stopped"]
    assert [entry["weight"] for entry in manifest["pm"]] == [1.0, 0.5]


def test_rl_goes_on_from_an_rl_model_with_a_new_preference_model(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    """And a policy's tokens are no preference model's: the second reads its own."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    source = write_jsonl(tmp_path / "in.jsonl", test_training_rl.asked(3))
    rl.train(test_training_rl.settings([source], tiny, tmp_path / "first", steps=2), rl.Rollout([tiny_pm], max_tokens=8))
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["What", " is", "plus"])  # other ids for the same text
    tokenizer.save_pretrained(tmp_path / "pm")
    config = LlamaConfig.from_pretrained(tiny_pm, vocab_size=len(tokenizer), num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "pm")
    run = test_training_rl.settings([source], str(tmp_path / "first"), tmp_path / "second", steps=2)
    rl.train(run, rl.Rollout([str(tmp_path / "pm")], max_tokens=8, samples_every=1))
    assert len(read_jsonl(tmp_path / "second" / "metrics.jsonl")) == 2
    with pytest.raises(InputError, match="the weight a number"):
        rl.train(run, rl.Rollout([f"{tiny_pm}=heavy"]))
    with pytest.raises(InputError, match="on a GPU only"):
        rl.generator("vllm", 1024)


# The report of a preference model -----------------------------------------------------------------


def test_length_bias_is_shown() -> None:
    """A model that always prefers the longer answer is right on one kind of pair and wrong on the other."""
    pairs = [
        preference.Pair("a" if i % 2 else "b", 1.0, margin=float(np.sign(n)), longer=n)
        for i, n in enumerate([50] * 6 + [-50] * 4)
    ]
    rows = {row["group"]: row for row in preference.report([*pairs, preference.Pair("a", 0.5, 3.0, 0)])}
    assert rows["all"]["pairs"] == 11
    assert rows["all"]["even"] == 1
    assert rows["all"]["accuracy"][0] == 0.6
    assert rows["the better answer is longer"]["accuracy"][0] == 1.0
    assert rows["the better answer is shorter"]["accuracy"][0] == 0.0
    assert rows["all"]["prefers_longer"] == 1.0
    assert rows["all"]["labels_longer"] == 0.6
    assert set(rows) >= {"a", "b"}
    assert preference.log_loss(preference.Pair("a", 0.5, 0.0, 0)) == pytest.approx(np.log(2))
    assert preference.log_loss(preference.Pair("a", 1.0, -2000.0, 0)) == pytest.approx(2000)


def test_what_a_turn_is_learnt_to_end_with_ends_generation(tiny: str, tmp_path: Path) -> None:
    """Of a base model whose end token isn't the template's: or every answer of the tuned model would run to --max-tokens."""
    import shutil

    from transformers import AutoTokenizer, GenerationConfig

    shutil.copytree(tiny, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    turn_end = tokenizer.eos_token_id
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(tmp_path / "base")
    GenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(tmp_path / "base")
    source = write_jsonl(tmp_path / "in.jsonl", test_training_sft.rows(4))
    sft.train(test_training_sft.settings([source], str(tmp_path / "base"), tmp_path / "out", steps=1))
    assert turn_end in GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
