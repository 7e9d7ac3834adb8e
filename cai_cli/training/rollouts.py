"""The policy's answers during RL on a CPU, drawn by the engine of the generating commands.

Each answer has a seed of its own, from the step and its place in it, so a run that continues draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cai_cli.engines import packed
from cai_cli.engines.base import Completion, Request
from cai_cli.engines.select import Setup
from cai_cli.errors import CaiError
from cai_cli.training.settings import Settings, precision

ROWS = 64
"""The largest number of answers that are drawn together."""


class Sampler:
    """Draws answers of the policy, from a copy of its weights in the type of the computation."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Load the starting model from `folder`."""
        trusted = settings.trust_remote_code
        setup = Setup("transformers", folder, precision(settings.dtype), batch_size=ROWS, trust_remote_code=trusted)
        engine: Any = setup.open_one()
        self.engine = engine
        self.weights: dict[str, torch.Tensor] = dict(engine.model.named_parameters())

    def load(self, policy: Any) -> None:
        """Take over the weights of the policy, with its adapter if it has one."""
        with torch.no_grad():
            for name, weight in merged(policy):
                self.weights[name].copy_(weight)
        packed.pack(self.engine.model)

    def draw(self, requests: list[Request]) -> list[list[int]]:
        """The tokens of each request's answer, with the token that ended it. CaiError if one could not be drawn."""
        found = dict(self.engine.run(iter(list(enumerate(requests)))))
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
