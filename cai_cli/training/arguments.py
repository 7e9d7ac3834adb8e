"""The arguments of TRL's configurations: those that all trainers have in common, and those of --trl."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

from cai_cli.data.shapes import type_error
from cai_cli.engines import models
from cai_cli.errors import InputError
from cai_cli.training import ranks
from cai_cli.training.settings import Settings, precision

WARMUP = 0.05
"""Share of the steps over which the learning rate rises; it then falls to 0 along a cosine."""
EAGER = 256
"""Up to this many tokens, plain attention is faster than torch's fused one on a CPU in bfloat16.

SmolLM2-135M, forward and backward, 8 rows: 1.29 times as fast at 100 tokens, 1.02 at 256, 0.81 at 384.
"""
_FLAGS = {
    "-o": "output_dir",
    "--lr": "learning_rate",
    "--steps": "max_steps",
    "--epochs": "num_train_epochs",
    "--batch-size": "per_device_train_batch_size per_device_eval_batch_size auto_find_batch_size",
    "--grad-accum": "gradient_accumulation_steps",
    "--seed": "seed data_seed",
    "--dtype": "bf16 fp16 bf16_full_eval fp16_full_eval",
    "--optim": "optim",
    "--gradient-checkpointing": "gradient_checkpointing activation_checkpointing",
    "--report-to": "report_to",
    "--save-every": "save_strategy save_steps save_total_limit save_only_model save_on_each_node",
    "--eval": "eval_strategy eval_steps eval_on_start eval_delay do_eval",
    "--max-length": "max_length truncation_mode vllm_max_model_length",
    "--packing": "packing eval_packing padding_free",
    "--beta or --kl-coef": "beta",
    "--precompute-ref": "precompute_ref_log_probs",
    "--num-generations": "num_generations num_generations_eval",
    "--max-tokens": "max_completion_length",
    "--temperature": "temperature",
    "--engine": "use_vllm vllm_mode vllm_enable_sleep_mode vllm_server_base_url vllm_server_host vllm_server_port",
    "--gpu-memory": "vllm_gpu_memory_utilization",
    "--pm": "reward_weights multi_objective_aggregation",
    "--accelerate": "fsdp fsdp_config deepspeed parallelism_config ddp_backend use_cpu local_rank",
    "--trust-remote-code": "trust_remote_code",
    "--template-arg": "chat_template_kwargs chat_template_path",
    "--restart": "resume_from_checkpoint ignore_data_skip load_best_model_at_end",
    "p_chosen and weight in the records": "loss_type loss_weights label_smoothing f_divergence_type f_alpha_divergence_coef "
    "ld_alpha use_weighting discopop_tau center_rewards_coefficient",
}
"""What to use instead of the arguments of TRL that `cai` sets itself."""
_OWN = (
    "assistant_only_loss completion_only_loss dataset_kwargs dataset_num_proc dataset_text_field disable_tqdm eos_token "
    "label_names length_column_name logging_first_step logging_nan_inf_filter logging_steps logging_strategy pad_token "
    "prediction_loss_only push_to_hub remove_unused_columns shuffle_dataset train_sampling_strategy"
)
"""Further arguments whose values `cai` depends on."""
_BITS = re.compile("^(?!.*torch).*(8bit|paged|bnb|lion|ademamix)")
"""The names of bitsandbytes' optimizers."""
_REPLACED_ONLY_FOR_PREFERENCES = ("loss_type",)
"""Arguments that only the loss of preferences replaces: they stay free for supervised fine-tuning and RL."""


def extra(step: str, config: str, entries: Iterable[str]) -> dict[str, Any]:
    """The arguments of --trl, KEY=VALUE with a JSON value or a plain string, for the TRL configuration class `config`.

    InputError for an unknown name (with the nearest one), for a value of a wrong type, and for an argument that `cai` sets.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals:
            raise InputError(f"--trl {entry}: write KEY=VALUE, KEY an argument of TRL's {config}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    if not found:
        return found
    import trl

    hints = get_type_hints(getattr(trl, config))
    for name, value in found.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            raise InputError(f"--trl {name}: {config} has no such argument{f'; did you mean {near[0]}?' if near else ''}")
        if name in _OWN.split() or name.startswith("hub_"):
            raise InputError(f"--trl {name}: cai depends on its own value of it, so it cannot be set")
        free = name in _REPLACED_ONLY_FOR_PREFERENCES and step in ("train-sft", "rl")
        if not free and (flag := next((flag for flag, names in _FLAGS.items() if name in names.split()), None)):
            raise InputError(f"--trl {name}: cai sets it itself; use {flag}")
        if error := _wrong_type(value, hints[name], name):
            raise InputError(f"--trl {error}")
    return found


def _wrong_type(value: object, hint: Any, name: str) -> str | None:
    try:
        return type_error(value, hint, name)
    except TypeError:  # a kind of hint that cannot be checked
        return None


def require_reporter(name: str) -> None:
    """InputError if --report-to names a tracker that transformers does not know, or whose library is not installed."""
    if name in ("none", "all"):
        return
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

    if name not in INTEGRATION_TO_CALLBACK:
        near = difflib.get_close_matches(name, INTEGRATION_TO_CALLBACK, 1)
        raise InputError(f"--report-to {name}: give one of {', '.join(sorted(near or INTEGRATION_TO_CALLBACK))}")
    if name not in get_available_reporting_integrations():
        raise InputError(f"--report-to {name}: it is not installed; pip install {name}")


def require_optimizer(settings: Settings) -> None:
    """InputError if --optim names no optimizer of transformers, or if a run needs bitsandbytes and it is not installed."""
    name = settings.optim
    if name:
        from transformers.training_args import OptimizerNames

        names = [each.value for each in OptimizerNames]
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise InputError(f"--optim {name}: give one of {', '.join(near or names)}")
    needs = "--load-in-4bit" if settings.load_in_4bit else f"--optim {name}" if name and _BITS.search(name) else None
    if needs and not settings.plan and find_spec("bitsandbytes") is None:
        raise InputError(f"{needs} needs bitsandbytes: pip install 'cai-cli[bitsandbytes]'")


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


def loading(settings: Settings, longest: int | None = None) -> dict[str, Any]:
    """The arguments with which transformers loads the weights. `longest`: see `arguments`.

    With --lora the base model is not trained, so it is loaded in the type of the computation. Weights that are trained are
    float32.
    """
    compute = precision(settings.dtype)
    found: dict[str, Any] = {"use_safetensors": True, "device_map": None, "dtype": compute if settings.lora else "float32"}
    if models.device() == "cpu" and compute == "bfloat16" and longest and longest <= EAGER:
        found["attn_implementation"] = "eager"
    return found


def quantization(settings: Settings) -> Any:
    """The configuration of --load-in-4bit: 4-bit NormalFloat, doubly quantised (QLoRA, Dettmers et al. 2023). None without it."""
    if not settings.load_in_4bit:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, precision(settings.dtype)),
    )


def arguments(
    settings: Settings,
    checkpoints: Path,
    rows: int,
    warmup: float,
    longest: int | None = None,
    scheduler: str = "cosine",
    checkpointing: bool = False,
) -> dict[str, Any]:
    """The TrainingArguments that every trainer has in common. `ProgressCallback` decides when to save and evaluate.

    `rows`: examples in a forward pass. `warmup`: steps, or a share of them below 1. `longest`: tokens in the longest sequence
    of the run, if it is known. `checkpointing`: whether activations are computed again for the backward pass.
    """
    cpu = models.device() == "cpu"
    compute = precision(settings.dtype)
    return {
        "output_dir": str(checkpoints),
        "max_steps": settings.steps or -1,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.lr,
        "lr_scheduler_type": scheduler,
        "warmup_steps": warmup,
        "per_device_train_batch_size": rows,
        "per_device_eval_batch_size": rows,
        "gradient_accumulation_steps": settings.grad_accum * settings.batch_size // rows,
        "seed": settings.seed,
        "use_cpu": cpu,
        "ddp_backend": "gloo" if cpu and ranks.world_size() > 1 else None,
        "bf16": compute == "bfloat16",
        "fp16": compute == "float16",
        "gradient_checkpointing": checkpointing,
        "dataloader_pin_memory": not cpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": True,
        "report_to": settings.report_to,
        "trust_remote_code": settings.trust_remote_code,
        "model_init_kwargs": loading(settings, longest),
        **({"optim": settings.optim} if settings.optim else {}),
    }
