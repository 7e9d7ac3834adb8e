"""Speed of the trainers compared with plain TRL scripts: sections of tests/bench.py.

Each trains SmolLM2-135M for STEPS steps per run on the same rows. The measure is tokens per second from the end of the first
step to the end of the last, without loading and saving. `TRL, same settings` has our batch size and precision, and no gradient
checkpointing; `TRL's defaults` is a script that names only the model and the rows.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from tests.bench import ROOT, Rate, alternate, prompts_file

STEPS, BATCH = 5, 8
SERIAL = count()


def rate(lines: list[tuple[float, float]]) -> Rate:
    """Tokens per second, from (tokens so far, seconds so far) after each step."""
    (tokens, seconds), (tokens_after, seconds_after) = lines[0], lines[-1]
    return (tokens_after - tokens) / (seconds_after - seconds)


def forget() -> None:
    """Free the memory of the run before: trainers hold themselves in reference cycles, with gigabytes of tensors."""
    from cai_cli.engines import heap

    gc.collect()
    heap.give_back()


def plain_memory() -> None:
    """Undo the settings of `cai` in the C library's allocator: glibc's own thresholds, as they adapt to large tensors."""
    libc = ctypes.CDLL(None)
    mmap_threshold, mmap_max, trim_threshold = -3, -4, -1  # of malloc.h
    libc.mallopt(mmap_max, 65536)
    libc.mallopt(mmap_threshold, 32 * 2**20)
    libc.mallopt(trim_threshold, 64 * 2**20)


def ours(step: str, source: str, model: str, folder: Path, train: Callable[..., Any], *more: Any, **options: Any) -> Rate:
    """One run of a `cai` trainer."""
    from cai_cli.training.settings import Settings

    forget()
    output = folder / f"{step}-{next(SERIAL)}"
    given = {"lr": 1e-5, "batch_size": BATCH, "steps": STEPS, "quiet": True} | options
    train(Settings(step=step, files=[source], model=model, output=str(output), **given), *more)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(output)
    return rate([(line["tokens"], line["seconds"]) for line in lines])


def theirs(trainer_class: Any, config_class: Any, model: str, rows: Any, folder: Path, same: bool, **more: Any) -> Rate:
    """One run of a TRL trainer; `same`: with our settings."""
    from transformers import TrainerCallback

    from cai_cli.engines import models

    forget()
    plain_memory()
    lines: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                lines.append((float(logs["num_tokens"]), time.monotonic()))

    options: dict[str, Any] = {"gradient_checkpointing": False, "dataloader_pin_memory": False, "bf16": models.has_bf16()}
    kwargs = more.pop("config", {})
    config = config_class(
        output_dir=str(folder / f"trl-{next(SERIAL)}"), max_steps=STEPS, logging_steps=1, save_strategy="no", report_to="none",
        disable_tqdm=True, use_cpu=models.device() == "cpu", **(options | {"per_device_train_batch_size": BATCH} if same else {}), **kwargs,
    )  # fmt: skip
    trainer = trainer_class(model=model, args=config, train_dataset=rows, callbacks=[Clock()], **more)
    trainer.train()
    return rate(lines)


def comparisons() -> tuple[str, Any]:
    """(path, rows as TRL takes them) of the example comparisons, or of those in the file that CAI_BENCH_COMPARISONS names."""
    from datasets import Dataset

    path = Path(os.environ.get("CAI_BENCH_COMPARISONS", ROOT / "examples/helpful-comparisons.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return str(path), Dataset.from_list([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows])


def answers(folder: Path) -> tuple[Path, Any]:
    """(path, rows as TRL takes them) of the better answers of the comparisons."""
    _, pairs = comparisons()
    rows = pairs.map(lambda row: {"completion": row["chosen"]}, remove_columns=["chosen", "rejected"])
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, rows


def bench_sft(model: str, folder: Path) -> dict[str, Any]:
    """`cai train-sft` on the better answers of the comparisons."""
    from trl import SFTConfig, SFTTrainer

    from cai_cli.training import sft

    source, rows = answers(folder)
    plain = partial(theirs, SFTTrainer, SFTConfig, model, rows, folder)
    sides: dict[str, Callable[[], Rate]] = {
        "cai train-sft": lambda: ours("train-sft", str(source), model, folder, sft.train),
        "TRL, same settings": lambda: plain(True),
        "TRL's defaults": lambda: plain(False),
    }
    return alternate("SFT on short examples", "tokens/s", sides)


def beside(name: str, step: str, train: Any, trainer: Any, config: Any, model: str, folder: Path) -> dict[str, Any]:
    """A trainer of preferences compared with TRL's."""
    source, rows = comparisons()
    sides: dict[str, Callable[[], Rate]] = {
        f"cai {step}": lambda: ours(step, source, model, folder, train),
        "TRL, same settings": lambda: theirs(trainer, config, model, rows, folder, True),
        "TRL's defaults": lambda: theirs(trainer, config, model, rows, folder, False),
    }
    return alternate(name, "tokens/s", sides)


def bench_pm(model: str, folder: Path) -> dict[str, Any]:
    """`cai train-pm`."""
    from trl import RewardConfig, RewardTrainer

    from cai_cli.training import pm

    return beside("preference model", "train-pm", pm.train, RewardTrainer, RewardConfig, model, folder)


def bench_dpo(model: str, folder: Path) -> dict[str, Any]:
    """`cai train-dpo`."""
    from trl import DPOConfig, DPOTrainer

    from cai_cli.training import dpo

    return beside("DPO", "train-dpo", dpo.train, DPOTrainer, DPOConfig, model, folder)


def bench_rl(model: str, folder: Path) -> dict[str, Any]:
    """`cai rl` with a preference model of the same size, 2 prompts x 4 answers per step."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from cai_cli.training import rl

    tokenizer = AutoTokenizer.from_pretrained(model)
    scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    scorer.config.pad_token_id = tokenizer.pad_token_id
    pm = folder / "pm"
    scorer.save_pretrained(pm)
    tokenizer.save_pretrained(pm)
    source = prompts_file(folder)
    asked = [json.loads(line)["prompt"] for line in source.read_text().splitlines()]
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in asked])
    config = {"num_generations": 4, "max_completion_length": 32, "beta": 0.1, "learning_rate": 1e-6}
    plain = partial(theirs, GRPOTrainer, GRPOConfig, model, rows, folder, reward_funcs=str(pm), config=config)
    rollout = rl.Rollout([str(pm)], max_tokens=32)
    sides: dict[str, Callable[[], Rate]] = {
        "cai rl": lambda: ours("rl", str(source), model, folder, rl.train, rollout, lr=1e-6, batch_size=BATCH // 4),
        "TRL, same settings": lambda: plain(same=True),
        "TRL's defaults": lambda: plain(same=False),
    }
    return alternate("GRPO", "tokens/s", sides)


SECTIONS = {"sft": bench_sft, "pm": bench_pm, "dpo": bench_dpo, "rl": bench_rl}
