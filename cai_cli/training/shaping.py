"""Terms of the RL reward besides the preference model's score, and measures of the answers. Pure functions."""

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
"""A refusal is searched for in this many characters at an answer's start."""
WORDS = 6
"""An answer is boilerplate if it shares this many first, or last, words with an answer to another prompt."""


@dataclass(frozen=True)
class Shaping:
    """How an answer's score becomes its reward; by default they are equal."""

    cap: float | None = None
    """The highest score that counts; a higher one is reduced to it."""
    length_penalty: float = 0.0
    """Subtracted per 100 tokens."""
    eos_penalty: float = 0.0
    """Subtracted from an answer that ran to --max-tokens instead of ending, or that has no word."""

    def reward(self, score: float, text: str, tokens: int, finished: bool) -> float:
        """The reward of an answer. `finished`: whether it ended before --max-tokens."""
        capped = score if self.cap is None else min(score, self.cap)
        bad = not finished or is_empty(text)
        return capped - self.length_penalty * tokens / 100 - (self.eos_penalty if bad else 0.0)


def is_empty(text: str) -> bool:
    """Whether a text has no word."""
    return not re.search(r"\w", text)


def is_refusal(text: str) -> bool:
    """Whether the first words of an answer are those of a refusal; see the paper's section 4.4."""
    return bool(_REFUSAL.search(text[:REFUSES_WITHIN]))


def formulaic(prompts: list[str], texts: list[str]) -> list[bool]:
    """Whether each answer has the same first or last WORDS words as an answer to another prompt."""
    edges: dict[tuple[str, ...], set[str]] = defaultdict(set)
    words = [text.lower().split() for text in texts]
    keys = [[("begins", *found[:WORDS]), ("ends", *found[-WORDS:])] if len(found) >= WORDS else [] for found in words]
    for prompt, found in zip(prompts, keys, strict=True):
        for key in found:
            edges[key].add(prompt)
    return [any(len(edges[key]) > 1 for key in found) for found in keys]


def boilerplate(prompts: list[str], texts: list[str]) -> float:
    """The share of answers that are `formulaic`: reward hacking (section 4.3)."""
    return sum(formulaic(prompts, texts)) / max(1, len(texts))
