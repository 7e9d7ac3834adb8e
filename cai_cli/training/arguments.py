"""The arguments that all of TRL's trainers have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai_cli.engines import models
from cai_cli.training import ranks
from cai_cli.training.settings import Settings, precision

WARMUP = 0.05
"""Share of the steps over which the learning rate rises; it then falls to 0 along a cosine."""
EAGER = 256
"""Up to this many tokens, plain attention is faster than torch's fused one on a CPU in bfloat16.

SmolLM2-135M, forward and backward, 8 rows: 1.29 times as fast at 100 tokens, 1.02 at 256, 0.81 at 384.
"""


def warmup_steps(settings: Settings, examples: int) -> int:
    """Steps over which the learning rate rises: WARMUP of all steps, or 0 if that is one step, whose rate would be 0."""
    total = settings.steps or examples * settings.epochs / settings.per_step()
    return steps if (steps := int(WARMUP * total)) > 1 else 0


def adapter(settings: Settings, classifier: bool = False) -> Any:
    """peft's LoraConfig for --lora, on every linear layer except the output (Dettmers et al. 2023); None for full weights.

    A classifier's new head is trained in full beside it.
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
    settings: Settings, checkpoints: Path, warmup: float, longest: int | None = None, scheduler: str = "cosine"
) -> dict[str, Any]:
    """The TrainingArguments that every trainer has in common. `ProgressCallback` decides when to save and evaluate.

    `warmup`: steps, or a share of them below 1. `longest`: tokens in the longest sequence of the run, if it is known.
    """
    cpu = models.device() == "cpu"
    compute = precision(settings.dtype)
    attention = {"attn_implementation": "eager"} if cpu and compute == "bfloat16" and longest and longest <= EAGER else {}
    return {
        "output_dir": str(checkpoints),
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
