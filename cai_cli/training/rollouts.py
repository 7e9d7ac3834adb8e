"""The policy's answers during RL, drawn by the engine of the generating commands.

Each answer has a seed of its own, from the step and its place in it, so a run that continues draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from cai_cli.engines import forks, models, packed
from cai_cli.engines.base import Completion, Request
from cai_cli.engines.select import Setup
from cai_cli.errors import CaiError
from cai_cli.training import ranks
from cai_cli.training.settings import Settings, precision

ROWS = 64
"""The largest number of answers that are drawn together."""
FEW = 16
"""Answers of a fork from which on it is worth its start, and the pages that are copied when this process goes on training."""
_OTHER = {
    "top_k",
    "min_p",
    "repetition_penalty",
    "generation_kwargs",
    "cache_implementation",
    "use_transformers_continuous_batching",
}
"""Arguments of TRL for its own generation, which our engine does not have."""


class Sampler:
    """Draws answers of the policy, from a copy of its weights in the type of the computation."""

    def __init__(self, setup: Setup) -> None:
        """Load the starting model. `setup`: where it is and in which type."""
        self.forks = setup.count() if setup.forks and ranks.world_size() == 1 else 1
        engine: Any = setup.open_one()
        self.engine = engine
        self.weights: dict[str, torch.Tensor] = dict(engine.model.named_parameters())

    def load(self, policy: Any) -> None:
        """Take over the weights of the policy, with its adapter if it has one."""
        with torch.no_grad():
            for name, weight in merged(policy):
                self.weights[name].copy_(weight)
        if models.device() == "cpu":
            packed.pack(self.engine.model)

    def draw(self, requests: list[Request]) -> list[list[int]]:
        """The tokens of each request's answer, with the token that ended it. CaiError if one could not be drawn."""
        number = self.forks if len(requests) >= FEW * self.forks else 1
        return forks.spread(partial(drawn, self.engine), requests, number)


def drawn(engine: Any, requests: list[Request]) -> list[list[int]]:
    """The tokens of each answer, by an engine."""
    found = dict(engine.run(iter(list(enumerate(requests)))))
    for result in found.values():
        if not isinstance(result, Completion):
            raise CaiError(f"an answer could not be drawn: {result.reason}")
    return [list(found[i].tokens) for i in range(len(requests))]


def merged(policy: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a policy by their names in the model that it started from: with an adapter, what merging it would give."""
    base = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    changed: dict[str, torch.Tensor] = {}
    for name, module in base.named_modules():
        if hasattr(module, "get_delta_weight") and (active := [key for key in module.active_adapters if key in module.lora_A]):
            changed[f"{name}.weight"] = sum(module.get_delta_weight(key) for key in active)
    for name, weight in base.named_parameters():
        if "lora_" not in name:
            plain = name.replace(".base_layer.", ".")
            yield plain, weight + changed[plain] if plain in changed else weight


def sampler(settings: Settings, folder: Any, given: dict[str, Any]) -> Sampler | None:
    """The sampler of a run; None if TRL must draw the answers. `given`: the arguments of --trl."""
    if settings.layout().sharded or settings.load_in_4bit or _OTHER & given.keys():
        return None  # its weights are in parts or quantised, or its draws are TRL's
    trusted = settings.trust_remote_code
    return Sampler(Setup("transformers", folder, precision(settings.dtype), False, ROWS, trust_remote_code=trusted))
