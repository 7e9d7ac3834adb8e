"""Attention for a row's newest token on a CPU, where torch's fused attention takes longer than two matrix products."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "cai_decode"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [rows, columns, heads, size] of queries [rows, heads, columns, size], as transformers' `eager` computes it.

    More than one column, and what only some models have, is left to torch. `attention_mask`: True where a token is seen.
    """
    plain = query.shape[2] == 1 and not any(more.get(name) is not None for name in ("position_bias", "s_aux", "softcap"))
    if not plain or (attention_mask is not None and attention_mask.dtype != torch.bool):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, size)  # the heads that share keys and values are one product
    scores = grouped @ key.transpose(2, 3) * (size**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).reshape(rows, 1, heads, -1), None


def use(model: PreTrainedModel) -> None:
    """Let a model use it, if it uses torch's attention."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
