"""From preferences to principles: inverse constitutional AI (Findeis et al. 2024, arXiv 2406.06560). Pure functions.

A model proposes a rule for why one answer was preferred. Similar rules are one candidate. The judge then decides every pair by
every candidate, and those that predict the preferences are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cai_cli.data.records import Messages, user
from cai_cli.data.transcripts import ASSISTANT, HUMAN, INTRODUCTION, STOPS, bracketed, transcript
from cai_cli.method.prompts import Prompt

BEGINNING = "Choose the response that"
"""The first words of every rule."""
REQUEST = (
    "People preferred ({}). Why? Write one general rule, in a single sentence, that makes the same choice for the same reason and"
    " that also fits other conversations. Do not mention (A), (B) or what this conversation is about."
)
SAME = 75.0
"""Two rules are one candidate if their words agree by this percentage."""
_MIN_WORDS, _MAX_WORDS = 2, 40


def proposal(prompt: str | Messages, answers: tuple[str, str], preferred: int, format: str) -> Prompt:
    """Asks why people preferred one of two answers. The model continues a rule that begins with BEGINNING."""
    talk = transcript([user(prompt)] if isinstance(prompt, str) else prompt, bracketed)
    shown = "\n".join(f" ({letter}) [[[{bracketed(text)}]]]" for letter, text in zip("AB", answers, strict=True))
    question = f"{INTRODUCTION}{talk}\n\n\nTwo responses:\n{shown}"
    text = f"{question}\n\n{REQUEST.format('AB'[preferred])}"
    if format == "chat":
        return Prompt(messages=[user(text)], prefill=BEGINNING, stop=("\n",))
    return Prompt(text=f"{HUMAN} {text}{ASSISTANT} {BEGINNING}", stop=("\n", *STOPS))


def rule(text: str) -> str | None:
    """The rule in what a model wrote after BEGINNING: its first sentence. None if there is none, or if it names a letter."""
    said = " ".join(text.split()).removeprefix(BEGINNING).strip()
    sentence = re.split(r"(?<=[.!?])\s", said, maxsplit=1)[0].rstrip(".!?,;: ")
    if re.search(r"\([AB]\)|\b[AB]\b(?! [a-z])|\bresponse [AB]\b", sentence):
        return None
    return f"{BEGINNING} {sentence}." if _MIN_WORDS <= len(sentence.split()) <= _MAX_WORDS else None


def candidates(rules: Sequence[str], most: int) -> list[tuple[str, int]]:
    """(rule, how many like it) of the `most` largest groups of similar rules. The rule is the one that most others are like."""
    import numpy as np
    from rapidfuzz import fuzz, process

    unique = list(dict.fromkeys(rules))
    if not unique:
        return []
    counts = np.array([rules.count(each) for each in unique])
    bare = [each.removeprefix(BEGINNING).lower() for each in unique]
    like = process.cdist(bare, bare, scorer=fuzz.token_sort_ratio, dtype=np.uint8) >= SAME
    found: list[tuple[str, int]] = []
    left = np.ones(len(unique), dtype=bool)
    while left.any() and len(found) < most:
        sizes = np.where(left, (like & left[None]) @ counts, -1)
        leader = int(sizes.argmax())
        found.append((unique[leader], int(sizes[leader])))
        left &= ~like[leader]
    return found


def texts(rule: str) -> dict[str, str]:
    """The three texts of a principle."""
    wish = rule.removeprefix(BEGINNING).strip().rstrip(".")
    return {
        "critique": f"Say where the assistant's last response is not one that {wish}.",
        "revision": f"Rewrite the assistant's last response so that it is one that {wish}. Give the rewritten response alone.",
        "compare": rule,
    }


def identity(rule: str, taken: set[str]) -> str:
    """A short id for a rule."""
    words = re.findall(r"[a-z]+", rule.removeprefix(BEGINNING).lower())
    name = "-".join([word for word in words if word not in _SMALL][:4]) or "rule"
    while name in taken:
        stem, _, number = name.rpartition("-")
        name = f"{stem}-{int(number) + 1}" if number.isdecimal() else f"{name}-2"
    taken.add(name)
    return name


_SMALL = frozenset(
    "a an and any are as at be by does for from in is it its more most of on or that the to which with".split()  # noqa: SIM905
)
