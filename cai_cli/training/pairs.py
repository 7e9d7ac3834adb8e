"""Batches of pairs of conversations. Where the model allows it, both are one row (`engines.joined`).

Then the prompt that they share is computed once, and scores, log probabilities and gradients are the same as in two rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cai_cli.engines.base import common_prefix
from cai_cli.engines.joined import can_join, joined

EXTRA = ("p_chosen", "weight")
"""Columns beside TRL's own."""
_KEPT = (*EXTRA, "ref_chosen_logps", "ref_rejected_logps")


def divided(example: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    """(beginning of both, rest of the chosen conversation, rest of the rejected one), in tokens.

    Both rests begin with the prompt's last token if the prompt is separate (DPO), as it predicts the answer's first.
    """
    chosen, rejected = example["chosen_ids"], example["rejected_ids"]
    if prompt := example.get("prompt_ids"):
        return prompt[:-1], prompt[-1:] + chosen, prompt[-1:] + rejected
    same = min(common_prefix(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    return chosen[:same], chosen[same:], rejected[same:]


class PairCollator:
    """Makes a batch of pairs, with `p_chosen` and `weight` [pairs].

    Apart, it is that of a TRL collator: chosen conversations in the first half of the rows, rejected ones in the second.
    Joined, it has one row per pair: `input_ids`, `position_ids`, `segments`; `attention_mask`, in how many of the two
    conversations a token is; `completion_mask`, the tokens after the first of each answer; all [pairs, tokens]; and `ends`,
    the places of both conversations' last tokens [pairs, 2].
    """

    def __init__(self, collator: Any, pad: int, example: dict[str, Any] | None = None, longest: int = 0) -> None:
        """`example` and `longest`: for `can_join`. Without an example all pairs stay apart."""
        self.collator, self.pad, self.example, self.longest = collator, pad, example, longest
        self.joined: bool | None = None
        """Whether pairs are joined; None before `decide`, and then they are apart."""

    def decide(self, model: Any) -> None:
        """From here on join the pairs, if the model can. The first call decides."""
        if self.joined is None:
            self.joined = self.example is not None and can_join(model, divided(self.example), self.longest)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of `examples`."""
        extra = {
            name: torch.tensor([example[name] for example in examples], dtype=torch.float32)
            for name in _KEPT
            if name in examples[0]
        }
        return {**(rows(examples, self.pad) if self.joined else self.collator(examples)), **extra}


def rows(examples: Sequence[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """Pairs in one row each; see `PairCollator`."""
    found = joined([divided(example) for example in examples], pad)
    segments = found.segments
    first = torch.nn.functional.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
    return {
        "input_ids": found.ids,
        "position_ids": found.positions,
        "segments": segments,
        "attention_mask": 2 * (segments == 0) + (segments > 0),
        "completion_mask": (segments > 0) & ~first,
        "ends": torch.tensor(found.ends),
    }
