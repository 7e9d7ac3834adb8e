"""Train a preference model with TRL's own RewardTrainer, for comparison: examples/trl_reward.py TRAIN.jsonl MODEL DIR.

One epoch with the settings of `make learn-pm`: learning rate 2e-5, batches of 8, 384 tokens. TRL drops longer rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from cai_cli.engines import models


def main(source: str, model: str, output: str) -> None:
    """Train the model and save it."""
    rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
    columns = Dataset.from_list([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows])
    cpu = not torch.cuda.is_available()
    config = RewardConfig(
        output_dir=output, num_train_epochs=1, learning_rate=2e-5, lr_scheduler_type="cosine", warmup_steps=8, max_length=384,
        per_device_train_batch_size=8, bf16=models.has_bf16(), gradient_checkpointing=not cpu, use_cpu=cpu,
        dataloader_pin_memory=not cpu, pad_token="<|endoftext|>", save_strategy="no", report_to="none", logging_steps=10, seed=1,
    )  # fmt: skip
    trainer = RewardTrainer(model=model, args=config, train_dataset=columns)
    trainer.train()
    trainer.save_model(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
