"""How much memory a run needs, found before anything is loaded: one step of the real model, on tensors without data.

torch's FakeTensorMode runs every operation for its shapes only, and what would be held is counted. This is right for any
architecture. The optimizer's states and what is loaded beside the model are added from their sizes.
"""

from __future__ import annotations

import copy
import os
import weakref
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cai_cli import streams
from cai_cli.engines import models
from cai_cli.errors import CaiError, InputError
from cai_cli.training import arguments
from cai_cli.training.settings import Settings, precision

GIB = 2**30
CARDS = (16, 24, 40, 48, 80, 96, 141, 180)
"""Memory of common GPUs, in GB."""
CONTEXT = GIB
"""What CUDA and its libraries take in each process on a GPU."""
SLACK = {"cuda": 0.05, "cpu": 0.15}
"""Share by which an allocator's gaps enlarge what is held. glibc's are large for batches of different lengths."""
FEW = (4, 6)
"""Layers of the models whose steps are run."""
AT_ONCE = 2048
"""Tokens in a forward and backward pass on a CPU, where more take memory and are not faster."""
FREE = 0.9
"""Share of the memory that a run may take for "auto" to leave gradient checkpointing off."""
_STATES = {"adafactor": 0.1, "sgd": 0, "lion_32bit": 4, "lion_8bit": 1, "paged_lion_8bit": 1, "adamw_8bit": 2,
           "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2, "adamw_torch_4bit": 1, "adamw_torch_8bit": 2}  # fmt: skip
"""Bytes of the optimizer's states per trained weight; 8 for AdamW and all others (two float32 numbers)."""


class Unknown(CaiError):
    """The step of a model cannot run on tensors without data."""


@dataclass(frozen=True)
class Load:
    """What one process of a run computes at once, and holds beside the model that it trains."""

    rows: int
    """Sequences in a forward and backward pass."""
    tokens: int
    """Tokens of the longest."""
    parts: int = 1
    """How many such passes make a batch."""
    classifier: bool = False
    reference: bool = False
    """Whether a second copy of the starting model is held."""
    scorers: int = 0
    """Bytes of the preference models."""
    vllm: int = 0
    """Bytes that vLLM uses while it generates."""
    sampler: int = 0
    """Bytes of the copy of the weights that draws answers."""
    generates: bool = False
    """Whether answers are sampled (RL)."""


Need = dict[str, int]
"""Bytes per process by what they are for, at the moment when most are held."""


@dataclass(frozen=True)
class _Step:
    """What one step of a model holds: bytes, and a number of weights."""

    weights: float
    trained: float
    """The number of weights that are trained."""
    saved: float
    """What quantising would save."""
    work: float
    """Activations and temporary tensors: what is held beside the weights and all gradients."""

    def beyond(self, deeper: _Step, times: float) -> _Step:
        """This step plus `times` the difference to that of a deeper model."""
        return _Step(*(a + times * (b - a) for a, b in zip(astuple(self), astuple(deeper), strict=True)))


def need(folder: Path, settings: Settings, load: Load, checkpointing: bool) -> Need:
    """What a run needs, with or without gradient checkpointing.

    The step runs in models with only the first four and the first six layers, because each further layer needs the same.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
    layers = config.get_text_config().num_hidden_layers
    if layers <= FEW[1]:
        step = _step(config, settings, load, checkpointing)
    else:
        first, second = (_step(_shallow(config, n), settings, load, checkpointing) for n in FEW)
        step = first.beyond(second, (layers - FEW[0]) / (FEW[1] - FEW[0]))
    found = {
        "weights": step.weights - (step.saved if settings.load_in_4bit else 0),
        "gradients": 4 * step.trained,
        "optimizer": _STATES.get(settings.optim or "", 8) * step.trained,
        "reference model": step.weights if load.reference else 0,
    }
    layout = settings.layout()
    if layout.sharded:
        gathered = 2 * step.weights / layers
        found = {name: size / layout.processes for name, size in found.items()} | {"gathered layers": gathered}
    elif layout.processes > 1:
        found["gradients to exchange"] = 4 * step.trained
    found["activations"] = max(step.work, load.vllm, _generation(config, step.weights, load) if load.generates else 0)
    found |= {"preference models": load.scorers, "copy that draws answers": load.sampler}
    found["program"] = CONTEXT if models.device() == "cuda" else _resident()
    return {name: int(size) for name, size in found.items() if size}


def _shallow(config: Any, layers: int) -> Any:
    """The configuration with only the first layers."""
    found = copy.deepcopy(config)
    text = found.get_text_config()
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == text.num_hidden_layers:  # one entry per layer
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    return found


def _step(config: Any, settings: Settings, load: Load, checkpointing: bool) -> _Step:
    """What one step of a model of this configuration holds. Unknown if an operation needs data."""
    try:
        return _simulated(config, settings, load, checkpointing)
    except Exception as problem:
        raise Unknown(f"{settings.model}: could not estimate the memory ({' '.join(str(problem).split())[:200]})") from problem


def _simulated(config: Any, settings: Settings, load: Load, checkpointing: bool) -> _Step:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):  # peft converts weights, which tensors without data refuse
        model = _model(config, settings, load, checkpointing)
    # torch knows the shapes of its own product of grouped matrices in bfloat16 only; transformers' own has the same
    experts = patch("transformers.integrations.moe._can_use_grouped_mm", return_value=False)
    with experts, FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        (model.get_base_model() if settings.lora else model).tie_weights()
        weights = {id(weight): weight for weight in model.parameters()}.values()
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        return _Step(
            weights=sum(weight.numel() * weight.element_size() for weight in weights),
            trained=trained,
            saved=_saved_by_4_bits(model),
            work=max(0, _peak(model, settings, load) - 4 * trained),
        )


def _model(config: Any, settings: Settings, load: Load, checkpointing: bool) -> Any:
    """The model as the trainer makes it, without data."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.trainer.utils import add_fused_lm_head

    loading = arguments.loading(settings, load.tokens)
    kind: Any = AutoModelForSequenceClassification if load.classifier else AutoModelForCausalLM
    if load.classifier:
        config.num_labels, config.pad_token_id = 1, 0
    more: dict[str, Any] = {"attn_implementation": loading["attn_implementation"]} if "attn_implementation" in loading else {}
    more |= {"trust_remote_code": settings.trust_remote_code}
    model = kind.from_config(config, dtype=getattr(torch, loading["dtype"]), **more)
    if not load.classifier:
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    if checkpointing:
        model.activation_checkpointing_enable()
    if settings.lora:
        from peft import get_peft_model

        model = get_peft_model(model, arguments.adapter(settings, load.classifier))
        if checkpointing:
            model.enable_input_require_grads()
    return model.train()


def _peak(model: Any, settings: Settings, load: Load) -> int:
    """The most bytes that a step holds beside the weights: forward and backward, twice if gradients are accumulated."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.weak import WeakIdKeyDictionary

    class Held(TorchDispatchMode):
        """Counts the memory of the tensors that operations make, until nothing refers to it."""

        def __init__(self) -> None:
            super().__init__()
            self.now, self.most, self.seen = 0, 0, WeakIdKeyDictionary()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(found):
                if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                    size = storage.nbytes()
                    self.now += size
                    self.most = max(self.most, self.now)
                    self.seen[storage] = weakref.finalize(storage, self.free, size)
            return found

        def free(self, size: int) -> None:
            self.now -= size

    compute = precision(settings.dtype)
    ids = torch.ones(load.rows, load.tokens, dtype=torch.long)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if not load.classifier:
        given |= {"labels": torch.ones_like(ids), "fused_lm_head": True}
    with Held() as held:
        for weight in model.parameters():  # a view has the memory of its base, and a tied weight that of the other
            held.seen[weight.untyped_storage()] = None
        for _ in range(min(2, settings.grad_accum * load.parts)):
            with torch.autocast("cpu", getattr(torch, compute), enabled=compute != "float32"):
                out = model(**given)
            (out.logits if load.classifier else out.log_probs).float().sum().backward()
            del out
    return held.most


def _generation(config: Any, weights: float, load: Load) -> float:
    """Bytes while transformers generates: the keys and values of every token in 16 bits, and the weights once more."""
    return 2 * models.cached_numbers(config) * load.rows * load.tokens + weights / 2


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
    return int(sum(found.values()) * (1 + SLACK[models.device()]))


def divided(batch_size: int, load: Load) -> tuple[int, Load]:
    """(examples in a pass, what is computed at once): on a CPU a batch is computed in parts of equal size, in little memory.

    RL's is not: the answers of a prompt are compared with one another.
    """
    if models.device() != "cpu" or load.generates:
        return batch_size, load
    each = load.rows // batch_size
    most = max(1, AT_ONCE // (each * load.tokens))
    found = max(n for n in range(1, batch_size + 1) if batch_size % n == 0 and n <= most)
    return found, replace(load, rows=found * each, parts=batch_size // found)


def checkpointing(folder: Path, settings: Settings, load: Load) -> bool:
    """Whether to use gradient checkpointing: as --gradient-checkpointing says; with "auto" if the run does not fit without it.

    InputError, with what would fit, if the run does not fit at all. On a CPU, a run that is small for it is not estimated,
    unless other processes hold much of the memory.
    """
    there, wanted = models.memory(), settings.gradient_checkpointing
    least = models.parameters(folder) * (2 if settings.lora else 16)
    if models.device() == "cpu":
        _warn_if_crowded(folder, settings, load, there)
        if least < there / 2:
            return wanted == "on"
    for on in (False, True) if wanted == "auto" else (wanted == "on",):
        try:
            found = need(folder, settings, load, on)
        except Unknown as problem:
            streams.warn(str(problem))
            return wanted != "off"
        if total(found) <= there * (FREE if wanted == "auto" and not on else 1):
            streams.say(f"cai {settings.step}: {text(found, on)} of {there / GIB:.1f}", settings.quiet)
            return on
    raise InputError(
        f"{settings.model}: does not fit: {text(found, on)} of {there / GIB:.1f}. "
        f"{_remedy(folder, settings, load, there) or 'Use a smaller model, or shard it over more GPUs with --accelerate fsdp2'}"
    )


def _warn_if_crowded(folder: Path, settings: Settings, load: Load, there: int) -> None:
    """Say so if other processes leave less memory than a run on the CPU needs: the system would kill it without a word."""
    if (free := models.free_memory()) > FREE * there:
        return
    on = settings.gradient_checkpointing == "on"
    with suppress(Exception):  # a model that cannot be estimated may well run
        found = need(folder, settings, load, on)
        if total({name: size for name, size in found.items() if name != "program"}) > free:  # which this process already holds
            streams.warn(f"needs {text(found, on)}, and other processes leave {free / GIB:.1f} of {there / GIB:.1f}")


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
    processes = settings.layout().processes
    rows = [["GiB per process" if processes == 1 else f"GiB in each of {processes} processes", *heads]]
    rows += [[name, *(f"{each.get(name, 0) / GIB:.2f}" for each in found)] for name in names]
    rows += [["total, with gaps", *(f"{total(each) / GIB:.2f}" for each in found)]]
    cards = [next((f"{card} GB" for card in CARDS if total(each) <= card * 10**9), "none") for each in found]
    rows += [["smallest usual GPU", *cards]]
    width = max(len(row[0]) for row in rows)
    return ["  ".join([row[0].ljust(width), *(cell.rjust(21) for cell in row[1:])]) for row in rows]
