"""Texts that begin alike as one row, in which the beginning is computed once.

    row         beginning      one text      another
    segment     0 0 0 0 0      1 1 1 1       2 2 2
    position    0 1 2 3 4      5 6 7 8       5 6 7

A token sees its own segment up to itself, and segment 0. So each text has the context that it has in a row of its own.
`can_join` finds whether a model computes it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from cai_cli.engines import attention
from cai_cli.engines.base import common_prefix

Parts = Sequence[list[int]]
"""(beginning, rest of one text, rest of another, ...) in tokens. No rest is empty."""
PADDING = -1
"""The segment of padding."""
ROW = 1024
"""The most tokens in a row of texts that `alike` finds. In a longer row, attention between its texts is wasted time."""
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Relative differences of the hidden states that are rounding errors, by the type of the weights."""


class Rows(NamedTuple):
    """Padded rows of joined texts, each [rows, tokens]."""

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    ends: list[list[int]]
    """Per row, the place of each text's last token."""


class Group(NamedTuple):
    """Texts for one row."""

    begin: int
    """How many tokens they all begin with, in common."""
    texts: list[int]
    """Their numbers."""


def alike(texts: Sequence[list[int]], ends: Sequence[int], skip: int = 0) -> list[Group]:
    """All texts, those that begin alike together; empty if that saves less than an eighth of the tokens.

    `ends`: per text, how many of its tokens it may share. `skip`: the first tokens of all texts, which are computed before.
    """
    found: list[Group] = []
    for i in sorted(range(len(texts)), key=lambda i: texts[i]):
        if found:
            old, numbers = found[-1]
            begin, together = min(old, ends[i], common_prefix(texts[numbers[0]], texts[i])), [*numbers, i]
            own = [len(texts[j]) - skip for j in together]
            tokens = sum(own) - len(numbers) * (begin - skip)
            saved = (begin - skip) - (len(numbers) - 1) * (old - begin)  # the texts before it now have more tokens of their own
            if 4 * saved >= max(own) and tokens <= ROW:
                found[-1] = Group(begin, together)
                continue
        found.append(Group(ends[i], [i]))
    saved = sum((len(each.texts) - 1) * (each.begin - skip) for each in found)
    return found if 8 * saved >= sum(len(text) - skip for text in texts) else []


def joined(texts: Sequence[Parts], pad: int = 0) -> Rows:
    """Each entry of `texts` as a row."""
    sizes = [[len(part) for part in parts] for parts in texts]
    ids = [torch.tensor([token for part in parts for token in part]) for parts in texts]
    segments = [torch.repeat_interleave(torch.arange(len(each)), torch.tensor(each)) for each in sizes]
    places = [torch.tensor([*range(each[0]), *(each[0] + i for size in each[1:] for i in range(size))]) for each in sizes]
    return Rows(
        pad_sequence(ids, batch_first=True, padding_value=pad),
        pad_sequence(places, batch_first=True),
        pad_sequence(segments, batch_first=True, padding_value=PADDING),
        [[sum(each[: n + 1]) - 1 for n in range(1, len(each))] for each in sizes],
    )


def together(texts: Sequence[list[int]], groups: Sequence[Group], skip: int = 0) -> tuple[Rows, list[int], list[int]]:
    """(each group as a row, without the first `skip` tokens; per text, the row and the place there of its last token)."""
    rows = joined([(texts[numbers[0]][skip:begin], *(texts[i][begin:] for i in numbers)) for begin, numbers in groups])
    ends = {i: (row, end) for row, each in enumerate(groups) for i, end in zip(each.texts, rows.ends[row], strict=True)}
    row, place = zip(*(ends[i] for i in range(len(texts))), strict=True)
    return rows, list(row), list(place)


def visible(segments: torch.Tensor, model: Any, before: int = 0) -> torch.Tensor:
    """Which tokens each token sees, in the form that the model's attention takes [rows, 1, tokens, before + tokens].

    `before`: how many tokens all rows have in a cache. All tokens see them.
    """
    own = segments[:, :, None] == segments[:, None, :]
    seen = ((own | (segments[:, None, :] == 0)) & torch.ones_like(own).tril())[:, None]
    seen = torch.nn.functional.pad(seen, (before, 0), value=True)
    if model.config.get_text_config()._attn_implementation != "eager":
        return seen
    return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill(~seen, torch.finfo(model.dtype).min)


def can_group(model: Any, texts: Sequence[list[int]], groups: Sequence[Group], longest: int) -> bool:
    """`can_join`, tried on the largest group."""
    begin, numbers = max(groups, key=lambda group: len(group.texts))
    return can_join(model, (texts[numbers[0]][:begin], *(texts[i][begin:] for i in numbers)), longest)


def can_join(model: Any, parts: Parts, longest: int) -> bool:
    """Whether the model computes the same in one row as apart: tried on `parts`, by the hidden states of the last tokens.

    `longest`: tokens of the longest text of the run. A model with recurrent layers, with relative positions in its attention
    (ALiBi) or with a window shorter than that does not, nor one that takes no such mask.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = whole.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    headed = whole.get_output_embeddings() is not None or isinstance(getattr(whole, "score", None), torch.nn.Module)
    known = config._attn_implementation in ("sdpa", "eager", attention.NAME)
    routed = getattr(config, "output_router_logits", False)  # the loss that balances experts reads a mask of [rows, tokens]
    if not headed or not known or routed or (window and window < longest):
        return False
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            return _same(whole, parts)
    except (TypeError, ValueError, RuntimeError, AttributeError):  # it takes no such mask, or no positions
        return False
    finally:
        model.train(training)


def _same(model: Any, parts: Parts) -> bool:
    """Whether the last hidden states of the texts are the same in one row as apart."""
    rows, (begin, *rests) = joined([parts]), parts
    ids, positions, segments = (each.to(model.device) for each in rows[:3])
    seen = visible(segments, model)
    found = model.base_model(input_ids=ids, attention_mask=seen, position_ids=positions, use_cache=False).last_hidden_state
    for place, rest in zip(rows.ends[0], rests, strict=True):
        text = torch.tensor([begin + rest], device=model.device)
        alone = model.base_model(input_ids=text, use_cache=False).last_hidden_state[0, -1]
        if not (found[0, place] - alone).norm() <= CLOSE.get(model.dtype, 0) * alone.norm():
            return False
    return True
