"""Weights in the order in which the processor multiplies: torch otherwise reorders a layer's weights in each call."""

from __future__ import annotations

from functools import partial

import torch

from cai_cli.engines import models

SHARE = 0.05
"""Share of the memory that the second, packed copy of the weights may take."""
ROWS = 32
"""Rows for which the order is chosen."""


def pack(model: torch.nn.Module) -> None:
    """Let the bfloat16 linear layers of a model on a CPU compute with a packed copy of their weights as they are now.

    Without effect where torch or the processor cannot, or for a model that is large for the memory.
    """
    layers = [m for m in model.modules() if type(m) is torch.nn.Linear and m.weight.dtype is torch.bfloat16 and m.weight.is_cpu]
    size = sum(layer.weight.numel() * 2 for layer in layers)
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if not known or not models.has_bf16() or size > SHARE * models.memory():
        return
    for layer in layers:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        layer.forward = partial(_product, weight, layer.bias)  # type: ignore[method-assign]


def _product(weight: torch.Tensor, bias: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
