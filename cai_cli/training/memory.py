"""How much memory a run needs, found before anything is loaded: one step of the real model, on tensors without data.

torch's FakeTensorMode runs every operation for its shapes only, and its MemTracker counts what would be held. This is right for
any architecture. The optimizer's states and what is loaded beside the model are added from their sizes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cai_cli import streams
from cai_cli.engines import models
from cai_cli.errors import InputError
from cai_cli.training import arguments, ranks
from cai_cli.training.settings import Settings, precision

GIB = 2**30
CARDS = (16, 24, 40, 48, 80, 96, 141, 180)
"""Memory of common GPUs, in GB."""
CONTEXT = GIB
"""What CUDA and its libraries take in each process on a GPU."""
SLACK = 0.05
"""Share by which an allocator's gaps enlarge what is held."""
FREE = 0.9
"""Share of the memory that a run may take for "auto" to leave gradient checkpointing off."""
_STATES = {"adafactor": 0.1, "sgd": 0, "lion_32bit": 4, "lion_8bit": 1, "paged_lion_8bit": 1, "adamw_8bit": 2,
           "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2, "adamw_torch_4bit": 1, "adamw_torch_8bit": 2}  # fmt: skip
"""Bytes of the optimizer's states per trained weight; 8 for AdamW and all others (two float32 numbers)."""


@dataclass(frozen=True)
class Load:
    """What one process of a run computes at once, and holds beside the model that it trains."""

    rows: int
    """Sequences in a forward and backward pass."""
    tokens: int
    """Tokens of the longest."""
    classifier: bool = False
    reference: bool = False
    """Whether a second copy of the starting model is held."""
    scorers: int = 0
    """Bytes of the preference models."""
    vllm: int = 0
    """Bytes that vLLM uses while it generates."""
    generates: bool = False
    """Whether answers are sampled (RL)."""


Need = dict[str, int]
"""Bytes per process by what they are for, at the moment when most are held."""


def need(folder: Path, settings: Settings, load: Load, checkpointing: bool) -> Need:
    """What a run needs, with or without gradient checkpointing."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
    with FakeTensorMode():
        model = _model(config, settings, load, checkpointing)
        weights = {id(weight): weight for weight in model.parameters()}.values()
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        whole = sum(weight.numel() * weight.element_size() for weight in weights)
        peak = _peak(model, settings, load)
    found = {
        "weights": whole - (_saved_by_4_bits(model) if settings.load_in_4bit else 0),
        "gradients": peak["Gradient"],
        "optimizer": int(_STATES.get(settings.optim or "", 8) * trained),
        "reference model": whole if load.reference else 0,
    }
    if ranks.is_sharded():
        layers = getattr(config.get_text_config(), "num_hidden_layers", 1)
        found = {name: size // ranks.world_size() for name, size in found.items()} | {"gathered layers": 2 * whole // layers}
    elif ranks.world_size() > 1:
        found["gradients to exchange"] = 4 * trained
    work = peak["Activation"] + peak["Temp"] + peak["Other"]
    found["activations"] = max(work, load.vllm, _generation(config, whole, load) if load.generates else 0)
    found["preference models"] = load.scorers
    found["program"] = CONTEXT if models.device() == "cuda" else _resident()
    return {name: size for name, size in found.items() if size}


def _model(config: Any, settings: Settings, load: Load, checkpointing: bool) -> Any:
    """The model as the trainer makes it, without data."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.trainer.utils import add_fused_lm_head

    loading = arguments.loading(settings, load.tokens)
    kind: Any = AutoModelForSequenceClassification if load.classifier else AutoModelForCausalLM
    if load.classifier:
        config.num_labels, config.pad_token_id = 1, 0
    more = {"attn_implementation": loading["attn_implementation"]} if "attn_implementation" in loading else {}
    model = kind.from_config(config, dtype=getattr(torch, loading["dtype"]), **more)
    if not load.classifier:
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.lora:
        from peft import get_peft_model

        model = get_peft_model(model, arguments.adapter(settings, load.classifier))
        if checkpointing:
            model.enable_input_require_grads()
    return model.train()


def _peak(model: Any, settings: Settings, load: Load) -> dict[str, int]:
    """Bytes by torch's categories at the peak of a step: forward and backward, twice if gradients are accumulated."""
    import torch
    from torch.distributed._tools.mem_tracker import MemTracker

    compute = precision(settings.dtype)
    ids = torch.ones(load.rows, load.tokens, dtype=torch.long)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if not load.classifier:
        given |= {"labels": torch.ones_like(ids), "fused_lm_head": True}
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        for _ in range(min(2, settings.grad_accum)):
            with torch.autocast("cpu", getattr(torch, compute), enabled=compute != "float32"):
                out = model(**given)
            (out.logits if load.classifier else out.log_probs).float().sum().backward()
    found: dict[str, int] = dict.fromkeys(("Gradient", "Activation", "Temp", "Other"), 0)
    for snapshot in tracker.get_tracker_snapshot("peak").values():
        for name, size in snapshot.items():
            key = str(getattr(name, "value", name))
            found[key] = found.get(key, 0) + size
    return found


def _generation(config: Any, weights: int, load: Load) -> int:
    """Bytes while transformers generates: the keys and values of every token in 16 bits, and the weights once more."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 4 * text.num_hidden_layers * heads * width * load.rows * load.tokens + weights // 2


def _saved_by_4_bits(model: Any) -> int:
    """Bytes that quantising the linear layers, except the output, saves: 4.13 bits per weight with double quantisation."""
    import torch

    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and not {"lm_head", "score"} & set(name.split(".")) and "lora" not in name
    ]
    return int(sum(layer.weight.numel() * (layer.weight.element_size() - 4.13 / 8) for layer in layers))


def _resident() -> int:
    """Bytes that this process holds now: the libraries."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def total(found: Need) -> int:
    """All bytes, with the allocator's gaps."""
    return int(sum(found.values()) * (1 + SLACK))


def checkpointing(folder: Path, settings: Settings, load: Load) -> bool:
    """Whether to use gradient checkpointing: as --gradient-checkpointing says; with "auto" if the run does not fit without it.

    InputError, with what would fit, if the run does not fit at all. On a CPU, a run that is small for it is not estimated.
    """
    there, wanted = models.memory(), settings.gradient_checkpointing
    least = models.parameters(folder) * (2 if settings.lora else 16)
    if models.device() == "cpu" and least < there / 2:
        return wanted == "on"
    for on in (False, True) if wanted == "auto" else (wanted == "on",):
        found = need(folder, settings, load, on)
        if total(found) <= there * (FREE if wanted == "auto" and not on else 1):
            streams.say(f"cai {settings.step}: {text(found, on)} of {there / GIB:.1f}", settings.quiet)
            return on
    raise InputError(
        f"{settings.model}: does not fit: {text(found, on)} of {there / GIB:.1f}. "
        f"{_remedy(folder, settings, load, there) or 'Use a smaller model, or shard it over more GPUs with --accelerate fsdp2'}"
    )


def _remedy(folder: Path, settings: Settings, load: Load, there: int) -> str | None:
    """The mildest change of flags with which the run fits; None if none of them is enough."""
    whole = settings.batch_size * settings.grad_accum
    small: dict[str, Any] = {"batch_size": 1, "grad_accum": whole, "gradient_checkpointing": "on"}
    flags = "--batch-size 1 --grad-accum " + str(whole)
    changes: list[tuple[str, dict[str, Any]]] = [(flags, {})]
    if not settings.lora:
        changes += [(f"{flags} --optim adamw_8bit", {"optim": "adamw_8bit"}), (f"--lora {flags}", {"lora": True})]
    changes += [(f"--lora --load-in-4bit {flags}", {"lora": True, "load_in_4bit": True})]
    for text, change in changes:
        changed = replace(settings, **small | change)
        lighter = replace(load, rows=max(1, load.rows // settings.batch_size), reference=load.reference and not changed.lora)
        if total(need(folder, changed, lighter, True)) <= there:
            return f"It fits with {text}"
    return None


def text(found: Need, on: bool) -> str:
    """The estimate in one line."""
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in found.items())
    return f"{total(found) / GIB:.1f} GiB per process ({parts}; gradient checkpointing {'on' if on else 'off'})"


def table(folder: Path, settings: Settings, load: Load) -> list[str]:
    """The lines of `cai plan`: the parts without and with gradient checkpointing, and the cards that are large enough."""
    wanted = {"on": (True,), "off": (False,)}.get(settings.gradient_checkpointing, (False, True))
    found = [need(folder, settings, load, on) for on in wanted]
    names = list(dict.fromkeys(name for each in found for name in each))
    heads = ["with checkpointing" if on else "without checkpointing" for on in wanted]
    rows = [["GiB per process", *heads]]
    rows += [[name, *(f"{each.get(name, 0) / GIB:.2f}" for each in found)] for name in names]
    rows += [["total, with 5% for gaps", *(f"{total(each) / GIB:.2f}" for each in found)]]
    cards = [next((f"{card} GB" for card in CARDS if total(each) <= card * 10**9), "none") for each in found]
    rows += [["smallest usual GPU", *cards]]
    width = max(len(row[0]) for row in rows)
    return ["  ".join([row[0].ljust(width), *(cell.rjust(21) for cell in row[1:])]) for row in rows]
