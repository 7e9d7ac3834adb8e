"""DPO: TRL's own loss for hard labels, soft labels matched, and the KL to the starting model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError
from cai_cli.training import dpo
from tests.rows import preference, read_jsonl, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


def trl_losses(model: str, rows: list[Record], folder: Path, steps: int) -> list[dict[str, float]]:
    """The log of TRL's DPOTrainer on the columns that a person would give it."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=str(folder), max_steps=steps, learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=0,
        per_device_train_batch_size=16, seed=0, use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False, beta=0.1,
    )  # fmt: skip
    columns = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    trainer = DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(columns))
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_hard_labels_are_trls_own_loss(tiny: str, tmp_path: Path) -> None:
    rows = [preference(i, None, chosen=f"It is {'very ' * (i % 5)}good.") for i in range(16)]
    dpo.train(settings("train-dpo", [write_jsonl(tmp_path / "in.jsonl", rows)], tiny, tmp_path / "out", steps=8, batch_size=16))
    ours = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    theirs = trl_losses(tiny, rows, tmp_path / "trl", 8)
    for key, name in (("loss", "loss"), ("grad_norm", "grad_norm"), ("margin", "rewards/margins"), ("entropy", "entropy")):
        assert [line[key] for line in ours] == pytest.approx([entry[name] for entry in theirs], abs=1e-5), key
    assert ours[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert ours[-1]["tokens"] == theirs[-1]["num_tokens"]


def test_a_soft_label_is_matched(tiny: str, tmp_path: Path) -> None:
    """At convergence on one pair at 0.7, sigma(beta d) is 0.7 and the loss its entropy; at 0.5 the model does not change."""
    rows = [preference(1, 0.7)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    dpo.train(settings("train-dpo", [source], tiny, tmp_path / "out", steps=80, lr=3e-3, batch_size=1))
    last = read_jsonl(tmp_path / "out" / "metrics.jsonl")[-1]
    assert 1 / (1 + math.exp(-last["margin"])) == pytest.approx(0.7, abs=0.02)
    assert last["loss"] == pytest.approx(-(0.7 * math.log(0.7) + 0.3 * math.log(0.3)), abs=0.002)

    even = [preference(1, 0.5), preference(2, 0.5)]
    source = write_jsonl(tmp_path / "even.jsonl", even)
    dpo.train(settings("train-dpo", [source], tiny, tmp_path / "even", steps=10, lr=1e-2, batch_size=2))
    assert read_jsonl(tmp_path / "even" / "metrics.jsonl")[-1]["margin"] == pytest.approx(0, abs=0.05)


def test_plain_transcripts_and_adapters(tiny: str, tmp_path: Path) -> None:
    """With --format hh answers end in the end token; with --lora the starting model is the model without its adapter."""
    from transformers import AutoModelForCausalLM

    good = write_jsonl(tmp_path / "in.jsonl", [preference(i, 1.0) for i in range(4)])
    dpo.train(settings("train-dpo", [good], tiny, tmp_path / "out", steps=30, lr=1e-2, format="hh", lora=True, lora_rank=4))
    metrics = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert metrics[0]["margin"] == pytest.approx(0, abs=1e-6)
    assert metrics[-1]["margin"] > 0.5
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")

    no_prompt = {"chosen": "Hi. Yes.", "rejected": "Hi. No."}
    with pytest.raises(InputError, match="every row was skipped"):
        dpo.train(settings("train-dpo", [write_jsonl(tmp_path / "b.jsonl", [no_prompt])], tiny, tmp_path / "out2"))
