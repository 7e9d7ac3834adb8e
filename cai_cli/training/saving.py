"""The trained weights on disk: full or merged from an adapter, in the type of --save-dtype."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_cli import streams
from cai_cli.engines import adapters
from cai_cli.training import ranks
from cai_cli.training.settings import Settings
from cai_cli.training.workspace import open_to_readers

if TYPE_CHECKING:
    import torch

LOST = 0.1
"""Share of the training's change from which on a warning says that rounding has removed it."""


def save(trainer: Any, settings: Settings, base: Path, folder: Path, ends: list[int] | None = None) -> None:
    """Save the trained model with its tokenizer and template into `folder`. Every process of the run must call this.

    `base`: the directory of the starting model, into which an adapter is merged, unless --keep-adapter. `ends`: the tokens
    that end a turn, if answers were trained on.
    """
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    # every process must give its part of sharded weights
    weights = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not ranks.is_first():
        return
    dtype: torch.dtype = getattr(torch, settings.save_dtype)
    model.config.use_cache = True
    if ends is not None and model.generation_config is not None:
        # the token that it was trained to end a turn with must end generation
        known = model.generation_config.eos_token_id
        known = known if isinstance(known, list) else [known]
        model.generation_config.eos_token_id = [token for token in dict.fromkeys([*known, *ends[-1:]]) if token is not None]
    if not settings.keep_adapter:
        change = Change()
        pairs = _merged(model, weights is not None) if settings.lora else _pairs(weights or dict(model.named_parameters()), base)
        for trained, start in pairs:
            change.add(trained, start, dtype)
        change.warn(settings)
    if settings.lora:
        _save_adapter(trainer, model, weights, settings, base, folder, ends is not None)
    else:
        if weights is None:
            model.to(dtype)
        else:
            weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
        model.save_pretrained(folder, state_dict=weights)
        trainer.processing_class.save_pretrained(folder)
    open_to_readers(folder)


def _save_adapter(trainer: Any, model: Any, weights: Any, settings: Settings, base: Path, folder: Path, generates: bool) -> None:
    """Save an adapter; without --keep-adapter, merge it into the base as it is on disk (not quantised, not sharded)."""
    target = folder if settings.keep_adapter else folder / "adapter"
    if named := adapters.source(settings.model, base):
        for config in model.peft_config.values():
            config.base_model_name_or_path = named
    model.save_pretrained(target, state_dict=weights)
    trainer.processing_class.save_pretrained(target)
    if generates:
        model.generation_config.save_pretrained(target)  # `adapters.merge` takes the end tokens from it
    if not settings.keep_adapter:
        trained_on = getattr(model.config, "cai_target", "preference")
        adapters.merge(target, base, folder, settings.save_dtype, settings.trust_remote_code, trained_on)
        shutil.rmtree(target)


def _pairs(weights: dict[str, Any], base: Path) -> Iterator[tuple[Any, Any]]:
    """(trained, start) of each weight that the starting model has too, read one at a time."""
    from safetensors import safe_open

    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys() & weights.keys():
                trained = weights[name].detach()
                start = file.get_tensor(name).to(trained.device)
                if start.shape == trained.shape:
                    yield trained, start


def _merged(model: Any, sharded: bool) -> Iterator[tuple[Any, Any]]:
    """The same for each weight that has an adapter; none if the base's weights are quantised, or if any are sharded."""
    for layer in () if sharded else model.modules():
        if hasattr(layer, "get_delta_weight"):
            start = layer.get_base_layer().weight
            change = layer.get_delta_weight(layer.active_adapters[0]).detach()
            if type(start.data) is type(change) and start.shape == change.shape:
                yield start.detach().float() + change, start.detach()


@dataclass
class Change:
    """How much of the training's change of the weights is left after rounding to the saved type."""

    whole: float = 0.0
    """The squared length of the change."""
    kept: float = 0.0
    """The product of the change before and after rounding: 0 if every weight rounds back to what it was."""

    def add(self, trained: torch.Tensor, start: torch.Tensor, dtype: torch.dtype) -> None:
        """Count one weight."""
        start = start.float()
        change = trained.float() - start
        self.whole += float((change * change).sum())
        self.kept += float((change * (trained.to(dtype).float() - start)).sum())

    def warn(self, settings: Settings) -> None:
        """Warn if rounding has removed more than a tenth."""
        lost = 1 - self.kept / self.whole if self.whole else 0.0
        if lost > LOST:
            streams.warn(
                f"{settings.step}: the steps were so small that {lost:.0%} of what training changed is lost in "
                f"{settings.save_dtype}; --save-dtype float32 keeps it"
            )
