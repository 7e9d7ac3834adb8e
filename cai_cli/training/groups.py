"""RL's log probabilities with the answers of a prompt in one row, which computes the prompt once (`engines.joined`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cai_cli.engines.joined import Group, alike, together, visible


@dataclass
class Rows:
    """Conversations, and how they are divided into rows."""

    texts: list[list[int]]
    """Each conversation's tokens."""
    prompts: list[int]
    """How many of them are the prompt's."""
    groups: list[Group]
    """A row's part for an answer begins with the prompt's last token, which predicts the answer's first."""

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, kept: int) -> Rows | None:
        """Those of TRL's padded rows [answers, tokens], the last `kept` columns the answers'; None if it saves too little."""
        texts = [row[seen.bool()].tolist() for row, seen in zip(ids, mask, strict=True)]
        prompts = mask[:, :-kept].sum(1).tolist()
        groups = alike(texts, [prompt - 1 for prompt in prompts])
        return cls(texts, prompts, groups) if groups else None


def log_probabilities(model: Any, own: Any, rows: Rows, kept: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(log probability, entropy) of each token of the answers, both [answers, kept], 0 after an answer's end.

    `model`: `own`, which has TRL's fused head, or a wrapper of it. No entropy if the head returns none.
    """
    found, row, last = together(rows.texts, rows.groups)
    ids, positions, segments = (part.to(own.device) for part in found[:3])
    lengths = torch.tensor([len(text) - prompt for text, prompt in zip(rows.texts, rows.prompts, strict=True)])[:, None]
    # an answer's tokens are the last ones of its part, and each is predicted in the column before it
    steps = torch.arange(kept)
    columns = (torch.tensor(last)[:, None] - lengths + steps).clamp(0, ids.shape[1] - 2).to(own.device)
    inside = (steps < lengths).to(own.device)
    places = torch.tensor(row, device=own.device)[:, None].expand_as(columns)
    labels = torch.full_like(ids, -100)
    predicted = places[inside], columns[inside] + 1
    labels[predicted] = ids[predicted]
    seen = visible(segments, own)
    out = model(input_ids=ids, attention_mask=seen, position_ids=positions, labels=labels, use_cache=False, fused_lm_head=True)
    entropy = None if out.entropy is None else out.entropy[places, columns] * inside
    return out.log_probs[places, columns] * inside, entropy
