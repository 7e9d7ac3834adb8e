"""The draws of `engines.draws` in vLLM, as a logits processor. vLLM's own seeds disable its fast sampler: half the speed is lost.

Each request asks vLLM for greedy decoding, and this makes the drawn token the most likely one. For a server:

    vllm serve MODEL --logits-processors cai_cli.engines.vllm_draws:Draws
"""

from __future__ import annotations

from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from cai_cli.engines.draws import ARGUMENT, Draw, pick


class Draws(LogitsProcessor):
    """Draws the tokens of the requests that ask for it. Others are left alone."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, tuple[Draw, list[int]]] = {}
        """By its row in the batch: the settings of a request, and its generated tokens, which vLLM extends."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """ValueError for an argument of another form: so a client finds out that this is loaded."""
        _draw(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """False: it decides the most likely token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests that leave, join and move, in this order."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.rows.pop(row, None)
        for row, params, _, tokens in batch_update.added:
            self.rows.pop(row, None)
            if draw := _draw(params):
                self.rows[row] = draw, tokens
        for one, other, direction in batch_update.moved:
            first, second = self.rows.pop(one, None), self.rows.pop(other, None)
            if first:
                self.rows[other] = first
            if second and direction == MoveDirectionality.SWAP:
                self.rows[one] = second

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Make the drawn token of each row [rows, vocabulary] the most likely one."""
        if self.rows:
            rows = sorted(self.rows)
            held = [self.rows[row] for row in rows]
            drawn = logits if len(rows) == len(logits) else logits[rows]
            tokens = pick(drawn, [draw for draw, _ in held], [len(made) for _, made in held])
            logits[torch.tensor(rows, device=logits.device), tokens] = torch.inf
        return logits


def _draw(params: SamplingParams) -> Draw | None:
    given = (params.extra_args or {}).get(ARGUMENT)
    if given is None:
        return None
    try:
        seed, heat, top_p = given
        draw = int(seed), float(heat), float(top_p)
    except (TypeError, ValueError):
        raise ValueError(f"{ARGUMENT} must be [seed, temperature, top-p]") from None
    if not (0 <= draw[0] < 2**64 and draw[1] > 0 and 0 < draw[2] <= 1):
        raise ValueError(f"{ARGUMENT} must be [seed from 0 to 2**64 - 1, temperature above 0, top-p above 0 and up to 1]")
    return draw
