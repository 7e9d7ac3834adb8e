"""Attention on a CPU as matrix products, where they take less time than torch's fused attention.

So they do for a row's newest token, and in bfloat16 for many tokens. The keys and values of a prefix that all rows share are read
once for all rows, and not once per row: with few-shot examples they are most of what a step reads.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

Before = tuple[torch.Tensor, torch.Tensor] | None
"""The keys and the values [1, heads, columns, size] that all rows come after, if there are any."""
NAME = "cai_decode"
MANY = 64
"""From so many columns on, in bfloat16, matrix products are faster than torch's fused attention."""
CHUNK = 64
"""Queries of a row that are multiplied with the keys at once: their scores fit the processor's cache."""


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

    What is not faster, and what only some models have, is left to torch. `attention_mask`: True where a token is seen. If the
    keys have a `before` (`cache.SharedLayer`), all queries also see the keys and values in it.
    """
    before, columns = getattr(key, "before", None), query.shape[2]
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    plain = not any(more.get(name) is not None for name in ("position_bias", "s_aux", "softcap"))
    causal = more.get("is_causal") is not False and getattr(module, "is_causal", True)
    mine = columns == 1 or (columns >= MANY and query.dtype is torch.bfloat16 and causal)
    boolean = attention_mask is None or attention_mask.dtype == torch.bool
    if before is None and not (plain and mine and boolean):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    return (_newest if columns == 1 else _columns)(query, key, value, attention_mask, factor, before), None


def _newest(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, factor: float, before: Before
) -> torch.Tensor:
    """Attention of each row's newest token to its own columns, and to those that all rows come after."""
    rows, heads, _, size = query.shape
    shared = key.shape[1]
    grouped = query.reshape(rows, shared, -1, size)  # the heads that share keys and values are one product
    scores = grouped @ key.transpose(2, 3)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    seen = before[0].shape[2] if before else 0
    if before:
        together = grouped.transpose(0, 1).reshape(shared, -1, size)  # the queries of all rows are one product with the prefix
        first = (together @ before[0][0].transpose(1, 2)).view(shared, rows, -1, seen).transpose(0, 1)
        scores = torch.cat([first, scores], -1)
    weights = torch.softmax(scores * factor, -1, dtype=torch.float32).to(value.dtype)
    found = weights[..., seen:] @ value
    if before:
        mixed = weights[..., :seen].transpose(0, 1).reshape(shared, -1, seen) @ before[1][0]
        found += mixed.view(shared, rows, -1, found.shape[-1]).transpose(0, 1)
    return found.reshape(rows, 1, heads, -1)


def _columns(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, factor: float, before: Before
) -> torch.Tensor:
    """The same for several columns, which are causal if there is no mask. A row's queries are taken CHUNK at a time."""
    rows, heads, columns, size = query.shape
    shared, cached = key.shape[1], key.shape[2] - columns
    grouped = (query * factor).view(rows, shared, -1, columns, size)
    found = query.new_empty(rows, columns, heads, value.shape[-1])
    least = torch.finfo(query.dtype).min
    for row in range(rows):
        for start in range(0, columns, CHUNK):
            stop = min(start + CHUNK, columns)
            seen = key.shape[2] if mask is not None else cached + stop
            asked = grouped[row, :, :, start:stop].reshape(shared, -1, size)
            scores = (asked @ key[row, :, :seen].transpose(1, 2)).view(shared, -1, stop - start, seen)
            if mask is not None:
                hidden = ~mask[min(row, mask.shape[0] - 1), :, start:stop]
                hidden = hidden.view(-1, 1, *hidden.shape[1:]) if len(hidden) == 1 else hidden.view(shared, -1, *hidden.shape[1:])
            else:
                hidden = torch.ones(stop - start, seen, dtype=torch.bool).triu(1 + cached + start)
            scores = scores.masked_fill_(hidden, least).view(shared, -1, seen)
            if before:
                scores = torch.cat([asked @ before[0][0].transpose(1, 2), scores], -1)
            weights = torch.softmax(scores, -1)
            made = weights[..., weights.shape[-1] - seen :] @ value[row, :, :seen]
            if before:
                made += weights[..., : weights.shape[-1] - seen] @ before[1][0]
            apart = made.view(shared, -1, stop - start, made.shape[-1]).permute(2, 0, 1, 3)
            found[row, start:stop] = apart.reshape(stop - start, heads, -1)
    return found


def use(model: PreTrainedModel) -> None:
    """Let a model use it, if it uses torch's attention."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
