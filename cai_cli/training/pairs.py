"""Batches of pairs. Where the model allows it, a pair is one row, in which the beginning of both conversations is computed once.

    row         prompt         chosen answer     rejected answer
    segment     0 0 0 0 0      1 1 1 1           2 2 2
    position    0 1 2 3 4      5 6 7 8           5 6 7

A token sees its own segment up to itself, and segment 0. So each answer has the context that it has in a row of its own, and
scores and log probabilities are the same. `can_join` finds whether a model computes it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from cai_cli.method.tokens import common_prefix

EXTRA = ("p_chosen", "weight")
"""Columns beside TRL's own."""
_KEPT = (*EXTRA, "ref_chosen_logps", "ref_rejected_logps")
PADDING = 3
"""The segment of padding."""
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Relative differences of the hidden states that are rounding errors, by the type of the weights. A token too many in an answer's
context makes differences of 0.3 and more in SmolLM2-135M."""


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
        self.joined = False

    def decide(self, model: Any) -> None:
        """From here on join the pairs, if the model can."""
        self.joined = self.example is not None and can_join(model, self.example, self.longest)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of `examples`."""
        extra = {
            name: torch.tensor([example[name] for example in examples], dtype=torch.float32)
            for name in _KEPT
            if name in examples[0]
        }
        return {**(joined(examples, self.pad) if self.joined else self.collator(examples)), **extra}


def joined(examples: Sequence[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """Pairs in one row each; see `PairCollator`."""
    parts = [divided(example) for example in examples]
    sizes = [tuple(map(len, each)) for each in parts]
    ids = [torch.tensor([token for part in each for token in part]) for each in parts]
    segments = [torch.repeat_interleave(torch.arange(3), torch.tensor(each)) for each in sizes]
    places = [torch.tensor([*range(n + a), *range(n, n + b)]) for n, a, b in sizes]
    padded = pad_sequence(segments, batch_first=True, padding_value=PADDING)
    first = torch.nn.functional.pad(padded[:, 1:] != padded[:, :-1], (1, 0), value=True)
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
        "position_ids": pad_sequence(places, batch_first=True),
        "segments": padded,
        "attention_mask": torch.tensor([2, 1, 1, 0])[padded],
        "completion_mask": ((padded == 1) | (padded == 2)) & ~first,
        "ends": torch.tensor([(n + a - 1, n + a + b - 1) for n, a, b in sizes]),
    }


def visible(segments: torch.Tensor, model: Any) -> torch.Tensor:
    """Which tokens each token sees, in the form that the model's attention takes [rows, 1, tokens, tokens]."""
    own = segments[:, :, None] == segments[:, None, :]
    seen = ((own | (segments[:, None, :] == 0)) & torch.ones_like(own).tril())[:, None]
    if model.config.get_text_config()._attn_implementation == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill(~seen, torch.finfo(model.dtype).min)


def can_join(model: Any, example: dict[str, Any], longest: int) -> bool:
    """Whether the model computes the same in one row as in two: tried on one pair, by the hidden states of its last tokens.

    `longest`: tokens of the longest conversation of the run. A model with recurrent layers, with relative positions in its
    attention (ALiBi) or with a window shorter than that does not, nor one that takes no such mask.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = whole.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    headed = whole.get_output_embeddings() is not None or isinstance(getattr(whole, "score", None), torch.nn.Module)
    if not headed or config._attn_implementation not in ("sdpa", "eager") or (window and window < longest):
        return False
    batch = {name: value.to(model.device) for name, value in joined([example], 0).items()}
    begin, *rests = divided(example)
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            found = whole.base_model(
                input_ids=batch["input_ids"], attention_mask=visible(batch["segments"], whole), use_cache=False,
                position_ids=batch["position_ids"],
            ).last_hidden_state[0, batch["ends"][0]]  # fmt: skip
            for rest, state in zip(rests, found, strict=True):
                ids = torch.tensor([begin + rest], device=model.device)
                alone = whole.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
                if not (state - alone).norm() <= CLOSE[model.dtype] * alone.norm():
                    return False
    except (TypeError, ValueError, RuntimeError, AttributeError):  # it takes no such mask, or no positions
        return False
    finally:
        model.train(training)
    return True
