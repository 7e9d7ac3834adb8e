"""What RL rewards besides the preference model's score, and what it measures of the answers: pure functions."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

_REFUSAL = re.compile(
    r"\b(?:I|we)(?:['\u2019]m| am| are)?(?: really| very| so| truly)?,? "
    r"(?:sorry|apologi[sz]e|(?:un|not )able to|can(?:['\u2019]t| ?not)|won['\u2019]t|will not|must decline|decline to|refuse to|"
    r"(?:don['\u2019]t feel|not) comfortable)\b"
    r"|\bas an? (?:AI|language model)\b",
    re.IGNORECASE,
)
REFUSES_WITHIN = 120
"""Characters at an answer's beginning in which a refusal is looked for."""
WORDS = 6
"""Words at an answer's beginning, or end, that make it boilerplate where an answer to another prompt has the same."""


@dataclass(frozen=True)
class Shaping:
    """What is done to the score of an answer before it is the reward; nothing by default.

    `cap`: no score counts above it. `length_penalty`: taken off for every 100 tokens. `unfinished_penalty`: taken off an answer
    that holds no word, or that ran to --max-tokens.
    """

    cap: float | None = None
    length_penalty: float = 0.0
    unfinished_penalty: float = 0.0

    def reward(self, score: float, text: str, tokens: int, finished: bool) -> float:
        """The reward of an answer."""
        capped = score if self.cap is None else min(score, self.cap)
        bad = not finished or is_empty(text)
        return capped - self.length_penalty * tokens / 100 - (self.unfinished_penalty if bad else 0.0)


def is_empty(text: str) -> bool:
    """Whether a text holds no word."""
    return not re.search(r"\w", text)


def is_refusal(text: str) -> bool:
    """Whether an answer begins by declining, as far as its words show."""
    return bool(_REFUSAL.search(text[:REFUSES_WITHIN]))


def boilerplate(prompts: list[str], texts: list[str]) -> float:
    """Share of answers that begin or end with the same WORDS words as an answer to another prompt: a sign of reward hacking."""
    edges: dict[tuple[str, ...], set[str]] = defaultdict(set)
    words = [text.lower().split() for text in texts]
    long = [(prompt, found) for prompt, found in zip(prompts, words, strict=True) if len(found) >= WORDS]
    for prompt, found in long:
        edges["begins", *found[:WORDS]].add(prompt)
        edges["ends", *found[-WORDS:]].add(prompt)
    shared = sum(len(edges["begins", *found[:WORDS]]) > 1 or len(edges["ends", *found[-WORDS:]]) > 1 for _, found in long)
    return shared / max(1, len(texts))
