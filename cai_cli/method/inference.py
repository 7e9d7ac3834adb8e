"""From preferences to principles: inverse constitutional AI (Findeis et al. 2024, arXiv 2406.06560). Pure functions.

A model proposes a rule for why one answer was preferred. Similar rules are one candidate. The judge then decides every pair by
every candidate, and those that predict the preferences are kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from cai_cli.data.records import Messages, as_messages, assistant, user
from cai_cli.data.transcripts import ASSISTANT, HUMAN, INTRODUCTION, STOPS, bracketed, transcript
from cai_cli.method.prompts import Prompt

BEGINNING = "Choose the response that"
"""The first words of every rule."""
REQUEST = (
    "People preferred ({}). Why? Write one general rule, in a single sentence, that makes the same choice for the same reason and"
    " that also fits other conversations. Do not mention (A), (B) or what this conversation is about."
)
EXAMPLES = (
    (
        "How do I make pancakes?",
        ("Fry them in butter at the end. First you mix.", "Mix flour, milk and eggs. Fry thin layers of it in butter."),
        1, "puts the steps in the order in which they are done.",
    ),
    (
        "Will it rain in Oslo on the second Sunday of May?",
        ("Nobody can know that so long before. A forecast of the same week will be fairly reliable.", "Yes, in the afternoon."),
        0, "admits what it cannot know.",
    ),
    (
        "Tell me in one sentence what a tariff is.",
        ("Tariffs are old. The word is from Arabic. There are many kinds of them.", "It is a tax on goods from another country."),
        1, "keeps to the form that was asked for.",
    ),
)  # fmt: skip
"""Few-shot examples: (question, two answers, the preferred one, the rule). No rule is about harm, where it might be repeated."""
SAME = 75.0
"""Two rules are one candidate if their letters agree by this percentage, in their order."""
_DENIALS = re.compile(r"\b(?:not|no|never|without|less|fewer|least|avoid|refus|declin|reject|hid)|n't\b")
"""What turns a rule into its opposite."""
_MIN_WORDS, _MAX_WORDS = 2, 40


def proposal(prompt: str | Messages, answers: tuple[str, str], preferred: int, format: str, few_shot: int | None = 0) -> Prompt:
    """Asks why people preferred one of two answers. The model continues a rule that begins with BEGINNING.

    `few_shot`: how many of EXAMPLES it sees before; None for all.
    """
    text = _question(prompt, answers, preferred)
    shown = [(_question(*example[:3]), f"{BEGINNING} {example[3]}") for example in EXAMPLES[:few_shot]]
    if format == "chat":
        turns = [turn for asked, said in shown for turn in (user(asked), assistant(said))]
        return Prompt(messages=[*turns, user(text)], prefill=BEGINNING, stop=("\n",), shared=len(turns))
    prefix = "".join(f"{HUMAN} {asked}{ASSISTANT} {said}" for asked, said in shown)
    return Prompt(text=f"{prefix}{HUMAN} {text}{ASSISTANT} {BEGINNING}", stop=("\n", *STOPS), shared=len(prefix))


def _question(prompt: str | Messages, answers: tuple[str, str], preferred: int) -> str:
    """A conversation, two answers to it, and the request for a rule."""
    shown = "\n".join(f" ({letter}) [[[{bracketed(text)}]]]" for letter, text in zip("AB", answers, strict=True))
    talk = transcript(as_messages(prompt), bracketed)
    return f"{INTRODUCTION}{talk}\n\n\nTwo responses:\n{shown}\n\n{REQUEST.format('AB'[preferred])}"


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
    are. Of equally large groups, the one whose rule is most similar to
    the rules that deny the same comes first, because a rule about a single pair is like no other.
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
    central: dict[str, float] = {}
    for members in kinds.values():
        many = np.array([counts[unique[i]] for i in members], dtype=np.float32)
        texts = [bare[i] for i in members]
        similar = process.cdist(texts, texts, scorer=fuzz.ratio, dtype=np.uint8)
        like = similar >= SAME
        # by blocks: a product of the whole table would make it four times as large
        near, sizes = (
            np.concatenate([table[i : i + 1024] @ many for i in range(0, len(members), 1024)]) for table in (similar, like)
        )
        central |= zip((unique[i] for i in members), near.tolist(), strict=True)
        left = np.ones(len(members), dtype=bool)
        while left.any():
            leader = int(np.where(left, sizes, -1).argmax())
            group = left & like[leader]
            groups.append((unique[members[leader]], Counter({unique[members[i]]: int(many[i]) for i in np.flatnonzero(group)})))
            left &= ~group
            sizes -= like[:, group] @ many[group]
    return sorted(groups, key=lambda group: (-group[1].total(), -central[group[0]]))[:most]


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
