"""How a request's tokens are drawn: one uniform number per position, a hash of (the request's seed, position), picks the token.

So what a request draws does not depend on other requests, nor on the engine: two engines draw the same tokens wherever their
logits agree.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Any

import torch

ARGUMENT = "cai_draw"
"""The name under which a request to vLLM has its `Draw` as a list, among the arguments that vLLM does not know itself."""
BLOCK = 128
"""How many tokens of the vocabulary are summed first."""
Draw = tuple[int, float, float]
"""The seed, the temperature and top-p of a request that draws."""


def token_uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that decides a request's token at a position (0 for its first generated token)."""
    return int.from_bytes(blake2b(struct.pack("<QQ", seed, position), digest_size=7).digest(), "big") / 2**56


def pick(logits: torch.Tensor, draws: list[Draw], positions: list[int]) -> torch.Tensor:
    """The tokens [rows] that are drawn from logits [rows, vocabulary] by the settings of each row, above temperature 0.

    One uniform number per row picks a token by the inverse of the cumulative distribution over the most likely tokens with a
    total probability of top-p.
    """
    seeds, heats, tops = zip(*draws, strict=True)
    like: dict[str, Any] = {"device": logits.device, "dtype": torch.float64}
    points = torch.tensor([token_uniform(*at) for at in zip(seeds, positions, strict=True)], **like)
    logits = logits.float()
    if set(heats) != {1.0}:
        logits = logits / torch.tensor(heats, device=logits.device)[:, None]
    probabilities = torch.softmax(logits, -1)
    if min(tops) < 1:
        ordered, index = probabilities.sort(stable=True, dim=-1, descending=True)
        before = ordered.double().cumsum(-1) - ordered  # so the token that crosses top-p stays
        ordered = ordered.masked_fill(before >= torch.tensor(tops, **like)[:, None], 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(-1, index, ordered)
    return _invert(probabilities, points)


def _invert(probabilities: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The token [rows] at which the cumulative sum of probabilities [rows, vocabulary] passes a share of the total.

    First the block of tokens, then the token: sums of the whole vocabulary in float64 would take longer than the softmax.
    """
    padding = -probabilities.shape[-1] % BLOCK
    blocks = torch.nn.functional.pad(probabilities, (0, padding)).view(len(points), -1, BLOCK)
    cumulative = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    # The last value is the total: below 1 with top-p, and not exactly 1 after rounding.
    wanted = points * cumulative[:, -1]
    block = torch.searchsorted(cumulative, wanted[:, None], right=True).clamp(max=cumulative.shape[1] - 1)
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(-1, block).squeeze(-1)
    within = blocks[torch.arange(len(points), device=block.device), block.squeeze(-1)].cumsum(-1, dtype=torch.float64)
    most = within[:, -1].nextafter(torch.zeros_like(wanted))  # so that rounding cannot go past the last token
    token = torch.searchsorted(within, torch.minimum(wanted - before, most)[:, None], right=True)
    return (block * BLOCK + token).squeeze(-1)
