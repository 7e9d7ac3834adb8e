"""A trainer's settings, as the flags of a training command give them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

from cai_cli.data import reasoning
from cai_cli.data.jsonl import Record
from cai_cli.engines import models
from cai_cli.errors import InputError
from cai_cli.training import ranks

LORA_RATE = 10.0
"""LoRA's default learning rate, as a multiple of that of full weights (Schulman et al. 2025, "LoRA without regret")."""
_IN_FINGERPRINT = ("step", "lr", "batch_size", "grad_accum", "steps", "max_length", "limit", "seed", "eval_fraction", "lora",
                   "keep_adapter", "template_arg", "fold_system", "show_reasoning")  # fmt: skip
_IF_GIVEN = ("optim", "load_in_4bit")
"""Entries of the fingerprint that are None unless they were asked for."""


class InputEntry(TypedDict):
    """One input file of a run, as the manifest names it."""

    path: str
    sha256: str
    records: int
    weight: float


@dataclass
class Settings:
    """A trainer's options. The help of each flag says more (`commands/_training.py`)."""

    step: str
    """The command: "train-sft", "train-pm", "train-dpo" or "rl"."""
    files: list[str]
    """Each FILE or FILE=WEIGHT."""
    model: str
    output: str
    lr: float
    batch_size: int
    """Examples (for RL: prompts) computed at once by each process."""
    grad_accum: int = 1
    steps: int | None = None
    """Optimizer steps; takes precedence over `epochs`."""
    epochs: float = 1.0
    max_length: int = 1024
    """Longest example, in tokens."""
    limit: int | None = None
    seed: int = 0
    dtype: str = "auto"
    format: str = "auto"
    template_arg: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template."""
    fold_system: bool = False
    show_reasoning: bool = False
    """Whether a preference model sees the answers' reasoning."""
    eval: list[str] = field(default_factory=list)
    eval_fraction: float = 0.0
    lora: bool = False
    lora_rank: int = 16
    keep_adapter: bool = False
    skip_bad: bool = False
    """Whether bad lines are skipped. The first one ends the run otherwise."""
    load_in_4bit: bool = False
    """Whether the base model of LoRA is quantised."""
    optim: str | None = None
    """transformers' name of the optimizer; None for its default, AdamW."""
    gradient_checkpointing: str = "auto"
    """"on", "off" or "auto": if the memory estimate says that the run does not fit without it."""
    trl: list[str] = field(default_factory=list)
    """Further arguments of TRL's configuration, each KEY=VALUE (`arguments.extra`)."""
    trust_remote_code: bool = False
    save_dtype: str = "bfloat16"
    """The type of the saved weights: "bfloat16" or "float32"."""
    save_every: int | None = None
    """Steps between checkpoints; None: at intervals of time."""
    restart: bool = False
    report_to: str = "none"
    plan: ranks.Layout | None = None
    """The processes of a run of which only the memory is asked for (`cai plan`)."""
    quiet: bool = False
    debug: bool = False

    def shown(self, record: Record) -> Record:
        """The record as a preference model sees it: with the answers' reasoning only if --show-reasoning asks for it."""
        return reasoning.shown(record) if self.show_reasoning else record

    def layout(self) -> ranks.Layout:
        """The processes of the run."""
        return self.plan or ranks.layout()

    def per_step(self) -> int:
        """Examples (for RL: prompts) per optimizer step, over all processes."""
        return self.batch_size * self.grad_accum * ranks.world_size()

    def fingerprint(self, inputs: list[InputEntry], eval_inputs: list[InputEntry], **more: Any) -> dict[str, Any]:
        """The settings that a resumed run must share with the run that it continues. `more`: the models' hashes and others."""
        return {
            **{
                name: [[entry["sha256"], entry["weight"]] for entry in entries]
                for name, entries in (("inputs", inputs), ("eval", eval_inputs))
            },
            **{name: getattr(self, name) for name in _IN_FINGERPRINT},
            **{name: getattr(self, name) or None for name in _IF_GIVEN},
            "save_dtype": self.save_dtype,
            "epochs": None if self.steps else self.epochs,
            "lora_rank": self.lora_rank if self.lora else None,
            "dtype": precision(self.dtype),
            "processes": ranks.world_size(),
            "sharded": ranks.is_sharded(),
            **more,
        }


def precision(dtype: str) -> str:
    """The type of the forward and backward passes; weights that are trained are float32. InputError for float16 on a CPU."""
    if dtype == "auto":
        return models.dtype_name(dtype)
    if dtype == "float16" and models.device() == "cpu":
        raise InputError("--dtype float16 trains on a GPU only; use bfloat16 or float32")
    return dtype
