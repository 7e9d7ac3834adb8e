"""DPO: TRL's own loss where labels are hard, soft labels learnt as what they are, and the starting model held to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from cai_cli.errors import InputError
from cai_cli.training import dpo
from cai_cli.training.settings import Settings
from tests.test_training_pm import pair
from tests.tiny import read_jsonl, write_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(files: list[str], model: str, output: Path, **more: Any) -> Settings:
    given = {"lr": 1e-3, "batch_size": 4, "steps": 6, "dtype": "float32", "quiet": True} | more
    return Settings(step="train-dpo", files=files, model=model, output=str(output), **given)


def trl_losses(model: str, rows: list[dict[str, Any]], folder: Path, steps: int) -> list[dict[str, float]]:
    """What TRL's DPOTrainer logs on the columns that a person would give it."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=str(folder), max_steps=steps, learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=0,
        per_device_train_batch_size=4, seed=0, use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False, beta=0.1,
    )  # fmt: skip
    columns = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    trainer = DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(columns))
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_hard_labels_are_trls_own_loss(tiny: str, tmp_path: Path) -> None:
    rows = [pair(i, None, chosen=f"It is {'very ' * (i % 5)}good.") for i in range(16)]
    dpo.train(settings([write_jsonl(tmp_path / "in.jsonl", rows)], tiny, tmp_path / "out", steps=8))
    ours = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    theirs = trl_losses(tiny, rows, tmp_path / "trl", 8)
    for key, name in (("loss", "loss"), ("grad_norm", "grad_norm"), ("margin", "rewards/margins"), ("entropy", "entropy")):
        assert [line[key] for line in ours] == pytest.approx([entry[name] for entry in theirs], abs=1e-5), key
    assert ours[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert ours[-1]["tokens"] == theirs[-1]["num_tokens"]


def test_a_soft_label_is_learnt_as_that(tiny: str, tmp_path: Path) -> None:
    """Trained to convergence on one pair at 0.7, sigma(beta d) is 0.7 and the loss its entropy; one at 0.5 isn't moved."""
    rows = [pair(1, 0.7)]
    dpo.train(settings([write_jsonl(tmp_path / "in.jsonl", rows)], tiny, tmp_path / "out", steps=80, lr=3e-3, batch_size=1))
    last = read_jsonl(tmp_path / "out" / "metrics.jsonl")[-1]
    assert 1 / (1 + math.exp(-last["margin"])) == pytest.approx(0.7, abs=0.02)
    assert last["loss"] == pytest.approx(-(0.7 * math.log(0.7) + 0.3 * math.log(0.3)), abs=0.002)

    even = [pair(1, 0.5), pair(2, 0.5)]
    dpo.train(settings([write_jsonl(tmp_path / "even.jsonl", even)], tiny, tmp_path / "even", steps=10, lr=1e-2, batch_size=2))
    assert read_jsonl(tmp_path / "even" / "metrics.jsonl")[-1]["margin"] == pytest.approx(0, abs=0.05)


def test_plain_transcripts_and_adapters(tiny: str, tmp_path: Path) -> None:
    """--format hh ends what is learnt with the end token; with --lora the start is the model without its adapter."""
    from transformers import AutoModelForCausalLM

    good = write_jsonl(tmp_path / "in.jsonl", [pair(i, 1.0) for i in range(4)])
    dpo.train(settings([good], tiny, tmp_path / "out", steps=30, lr=1e-2, format="hh", lora=True, lora_rank=4))
    metrics = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert metrics[0]["margin"] == pytest.approx(0, abs=1e-6)
    assert metrics[-1]["margin"] > 0.5
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")

    no_prompt = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."}
    with pytest.raises(InputError, match="every row was set aside"):
        dpo.train(settings([write_jsonl(tmp_path / "b.jsonl", [no_prompt])], tiny, tmp_path / "out2"))
