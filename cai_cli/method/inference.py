"""From preferences to principles: inverse constitutional AI (Findeis et al. 2024, arXiv 2406.06560). Pure functions.

A model proposes a rule for why one answer was preferred. Similar rules are one candidate. The judge then decides every pair by
every candidate, and those that predict the preferences are kept.
"""

from __future__ import annotations

import re
from collections import Counter
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
"""Two rules are one candidate if their letters agree by this percentage, in their order."""
_DENIALS = re.compile(r"\b(?:not|no|never|without|less|fewer|least|avoid|refus|declin|reject|hid)|n't\b")
"""What turns a rule into its opposite."""
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


def candidates(rules: Sequence[str], most: int) -> list[tuple[str, Counter[str]]]:
    """(rule, the group's rules with how often each was proposed) of the `most` largest groups of similar rules.

    The rule is the one that most others are like. Rules that deny different things are not alike, however similar their words
    are.
    """
    import numpy as np
    from rapidfuzz import fuzz, process

    counts = Counter(rules)
    unique = list(counts)
    bare = [each.removeprefix(BEGINNING).lower() for each in unique]
    kinds: dict[tuple[str, ...], list[int]] = {}
    for i, each in enumerate(bare):
        kinds.setdefault(tuple(sorted(_DENIALS.findall(each))), []).append(i)
    groups: list[tuple[str, Counter[str]]] = []
    for members in kinds.values():
        many = np.array([counts[unique[i]] for i in members], dtype=np.float32)
        texts = [bare[i] for i in members]
        like = process.cdist(texts, texts, scorer=fuzz.ratio, dtype=np.uint8) >= SAME
        # by blocks: a product of the whole table would make it four times as large
        sizes = np.concatenate([like[i : i + 1024] @ many for i in range(0, len(members), 1024)])
        left = np.ones(len(members), dtype=bool)
        while left.any():
            leader = int(np.where(left, sizes, -1).argmax())
            group = left & like[leader]
            groups.append((unique[members[leader]], Counter({unique[members[i]]: int(many[i]) for i in np.flatnonzero(group)})))
            left &= ~group
            sizes -= like[:, group] @ many[group]
    return sorted(groups, key=lambda group: -group[1].total())[:most]


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
