"""A trainer's settings, and what TRL is told of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai_cli import models
from cai_cli.errors import InputError
from cai_cli.tokens import Renderer
from cai_cli.training import ranks
from cai_cli.training.data import Data
from cai_cli.training.workspace import Workspace, require_elsewhere, require_replaceable

WARMUP = 0.05
"""Share of the steps over which the learning rate rises; it then falls to 0 along a cosine."""
LORA_RATE = 10.0
"""How many times the learning rate of full weights LoRA takes by default (Schulman et al. 2025, "LoRA without regret")."""
EAGER = 256
"""Tokens up to which plain attention is the quicker one on a CPU in bfloat16. SmolLM2-135M forward and back, 8 rows: 1.29
times at 100 tokens, 1.02 at 256, 0.81 at 384."""


@dataclass
class Settings:
    """A trainer's options, as the flags give them. `steps` wins over `epochs`; `batch_size` is of each process."""

    step: str
    files: list[str]
    model: str
    output: str
    lr: float
    batch_size: int
    grad_accum: int = 1
    steps: int | None = None
    epochs: float = 1.0
    max_length: int = 1024
    limit: int | None = None
    seed: int = 0
    dtype: str = "auto"
    format: str = "auto"
    eval: list[str] = field(default_factory=list)
    eval_fraction: float = 0.0
    lora: bool = False
    lora_rank: int = 16
    keep_adapter: bool = False
    save_every: int | None = None
    restart: bool = False
    report_to: str = "none"
    quiet: bool = False
    debug: bool = False

    def per_step(self) -> int:
        """Examples (for RL prompts) to an optimizer step, over all processes."""
        return self.batch_size * self.grad_accum * ranks.world_size()

    def fingerprint(self, examples: Data[Any], **more: Any) -> dict[str, Any]:
        """What a resumed run must share with the run it goes on from. `more` holds the models' hashes and the like."""
        files = {"inputs": examples.inputs, "eval": examples.eval_inputs}
        same = ("step", "lr", "batch_size", "grad_accum", "steps", "max_length", "limit", "seed", "eval_fraction", "lora")
        return {
            **{name: [[entry["sha256"], entry["weight"]] for entry in entries] for name, entries in files.items()},
            **{name: getattr(self, name) for name in same},
            "epochs": None if self.steps else self.epochs,
            "lora_rank": self.lora_rank if self.lora else None,
            "dtype": precision(self.dtype),
            "processes": ranks.world_size(),
            "sharded": ranks.is_sharded(),
            **more,
        }


def language_model(settings: Settings, *others: Path) -> Path:
    """The directory of the model that training starts from. InputError, before anything is loaded, where it won't do.

    `others` are further models that the run reads, which -o must not name either.
    """
    if settings.keep_adapter and not settings.lora:
        raise InputError("--keep-adapter goes with --lora: there is no adapter to keep")
    if settings.lora and ranks.is_sharded() and not settings.keep_adapter:
        raise InputError("--lora with sharded weights needs --keep-adapter: the adapter can't be merged into a part of a model")
    folder = models.resolve(settings.model)
    models.read_config(folder)
    require_elsewhere(settings.output, folder, *others)
    require_replaceable(Path(settings.output))
    return folder


def tokens_of(settings: Settings, folder: Path) -> tuple[Renderer, str, int]:
    """(renderer, format, longest example in tokens) of the model that is trained. Joins this process to the run's others."""
    ranks.join()
    renderer = Renderer(models.load_tokenizer(folder))
    return renderer, renderer.format(settings.format), min(settings.max_length, models.context_length(folder))


def require_causal(folder: Path) -> None:
    """InputError where the directory holds a classifier, which has no words to train."""
    if models.is_preference_model(folder):
        raise InputError(f"{folder}: a sequence classifier, not a language model; give the model that it was made from")


def precision(dtype: str) -> str:
    """What the forward and backward passes compute in; the weights themselves are float32 always."""
    if dtype == "auto":
        return "bfloat16" if models.has_bf16() else "float32"
    if dtype == "float16" and models.device() == "cpu":
        raise InputError("--dtype float16 trains on a GPU only; take bfloat16 or float32")
    return dtype


def warmup_steps(settings: Settings, examples: int) -> int:
    """Steps over which the learning rate rises: WARMUP of all, and none where that is one, which would be at rate 0."""
    total = settings.steps or examples * settings.epochs / settings.per_step()
    return steps if (steps := int(WARMUP * total)) > 1 else 0


def adapter(settings: Settings, classifier: bool = False) -> Any:
    """peft's LoraConfig for --lora, on every linear layer but the output (Dettmers et al. 2023); None for full weights.

    A classifier's new head is trained whole beside it.
    """
    if not settings.lora:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules="all-linear",
        task_type="SEQ_CLS" if classifier else "CAUSAL_LM",
    )


def arguments(
    settings: Settings, workspace: Workspace, warmup: int, longest: int | None = None, scheduler: str = "cosine"
) -> dict[str, Any]:
    """The TrainingArguments that every trainer has in common. Saving and evaluation are `Watch`'s.

    `longest`: tokens in the longest sequence that the model will see, where that is known.
    """
    cpu = models.device() == "cpu"
    compute = precision(settings.dtype)
    attention = {"attn_implementation": "eager"} if cpu and compute == "bfloat16" and longest and longest <= EAGER else {}
    return {
        "output_dir": str(workspace.checkpoints),
        "max_steps": settings.steps or -1,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.lr,
        "lr_scheduler_type": scheduler,
        "warmup_steps": warmup,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.grad_accum,
        "seed": settings.seed,
        "use_cpu": cpu,
        "ddp_backend": "gloo" if cpu and ranks.world_size() > 1 else None,
        "bf16": compute == "bfloat16",
        "fp16": compute == "float16",
        "gradient_checkpointing": not cpu,
        "dataloader_pin_memory": not cpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": True,
        "report_to": settings.report_to,
        "model_init_kwargs": {"use_safetensors": True, "device_map": None} | attention,
    }
