"""Text that small models leak into a critique or a revision: strip what is safe to strip, flag the rest.

Stripped, and named in the text's `meta` together with the raw text:
    label       "Revision:", "**Revised response:**" at the start
    preamble    "Here is the revised response:" at the start
    quotes      one pair of quotation marks around the whole text
    turn        "Human:" or a request after a blank line, and all that follows (in a critique: any part of a transcript)

Flagged, on the round, as `critique-...` or `revision-...`:
    empty       it holds no word
    cut         it ran to --max-tokens, or ended inside its reasoning
    turn        it holds a line that begins another part, or another speaker's turn, and was not stripped
    request     it repeats the request; or a revision shares RUN words in a row with the request
    repeated    a critique repeats the answer, or a revision repeats the critique
    loop        it says the same GRAM words three times or more
    example     it copies words from a few-shot example
    unchanged   a revision equals the answer that it should revise, except for case, spaces and punctuation
    comment     a revision talks about the answer instead of giving one
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cai_cli.data.records import TextMeta
from cai_cli.data.transcripts import CRITIQUE_REQUEST, HUMAN, REVISION_REQUEST, STOPS
from cai_cli.engines.base import Completion

RUN = 8
"""A revision that shares this many words in a row with the request repeats it."""
LEAK = 6
"""A text that shares this many words in a row with a few-shot example copies from it."""
GRAM = 5
"""Words in each of the runs by which `repeats` and `loops` compare texts."""
SHARE = 0.5
"""A text repeats another if more than this share of its runs of GRAM words occur in the other."""

_NEW = r"(?:revised|rewritten|edited|rephrased|improved|updated|corrected|new|final)"
_NOUN = r"(?:response|answer|reply|version|revision|text)"
_OWN = rf"(?:the |my |your )?{_NEW} (?:assistant(?:'s|\u2019s)? )?{_NOUN}(?: \d+| \([^)\n]{{1,40}}\))?"
_LABELS = {"critique": r"(?:critique|criticism|assistant|AI)", "revision": rf"(?:{_OWN}|revision|rewritten|assistant|AI)"}
"""Words that are always a label when a colon follows."""
_LINE_LABELS = r"(?:response|answer|reply)"
"""Words that are a label only if the colon ends the line."""
_FEW = r"[^\n:.!?]{0,60}"
_DONE = r"(?:revised|rewritten|rewrote|edited|rephrased)"
_PREAMBLES = {
    "critique": r"(?:critique|criticism)",
    "revision": rf"(?:{_NEW}\b{_FEW}\b{_NOUN}|{_NOUN}{_FEW}\b{_DONE}|{_DONE}\b{_FEW}\b{_NOUN})",
}
_MANNERS = r"(?:(?:sure|certainly|of course|okay|ok|absolutely|i(?:'m| am)? (?:apologize|sorry))\b[^\n:.!?]{0,60}[.!,]?\s+)?"
_HERE = rf"(?:here(?:'s|\u2019s| is| are)|below is|the following is|i(?:'ve|\u2019ve| have)?(?= {_DONE}))\b"
_ENDS = {"critique": STOPS, "revision": (HUMAN, CRITIQUE_REQUEST, REVISION_REQUEST)}
"""What always begins another part: the text is cut before the first of them."""
_SPEAKERS = r"Human|User|Assistant|AI|Critique|Revision|\w+ Request|[\w-]+(?:Request|Response|Revision)"
_TURN = re.compile(rf"(?:^|\n)[^\S\n]*[>*_#]{{0,3}}\s?(?:{_SPEAKERS})[*_]{{0,3}}\s?:")
_COMMENT = re.compile(
    r"\b(?:the|this|my|your)\s+(?:(?:(?:assistant|AI)(?:'s|\u2019s)?|previous|preceding|original|last|above)\s+)+"
    r"(?:response|answer|reply|message|text)\b"
    r"|\b(?:revised|rewritten|edited|rephrased|improved)\s+(?:response|answer|reply|version|revision)\b"
    r"|\b(?:rewrite|revise|rephrase|edit)\s+(?:the|this|your|my)\s+(?:\w+\s+)?(?:response|answer|reply|text|statement)\b"
    r"|\b(?:the|this|your)\s+(?:response|revision|text|statement)\s+"
    r"(?:is|was|does|doesn't|doesn\u2019t|has|can|should|could|would|provides|presents|gives|contains|fails)\b",
    re.I,
)
FLAGS = ("empty", "cut", "turn", "request", "repeated", "loop", "example", "unchanged", "comment")


@dataclass(frozen=True)
class Context:
    """What a generated text of a round is compared with."""

    answer: str
    """The answer that the round criticises or revises."""
    request: str
    """The principle's critique or revision request."""
    prompt: str = ""
    """The conversation before the answer, as one text."""
    critique: str = ""
    """The critique that a revision follows; empty for a critique and for a direct revision."""
    examples: Sequence[str] = ()
    """The few-shot examples that the model was shown."""


def _edges(kind: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of the (labels, preambles) that may precede a text of this kind, with the white space after them."""
    name = _LABELS[kind]
    bold = rf"\*\*{name}\s?:\*\*|\*\*{name}\*\*\s?:"
    forms = rf"{bold}|{name}\s?:|#{{1,4}} *{name}\s?:?(?=\n)|{_LINE_LABELS}:(?=\s*\n)"
    end = r"(?::|\.?(?=[^\S\n]*\n[^\S\n]*\n))"  # a colon, or the end of a line that a blank line follows
    return (
        re.compile(rf"(?:{forms})\s*", re.I),
        re.compile(rf"{_MANNERS}{_HERE}{_FEW}{_PREAMBLES[kind]}{_FEW}{end}\s*", re.I),
    )


_EDGES = {kind: _edges(kind) for kind in _LABELS}


def strip(text: str, kind: str) -> tuple[str, list[str]]:
    """(text without the leaked parts, names of what was stripped). `kind`: critique or revision."""
    label, preamble = _EDGES[kind]
    done: set[str] = set()
    text = text.strip()
    for _ in range(2):  # a label may precede a preamble, or follow it
        for name, pattern in (("label", label), ("preamble", preamble)):
            if match := pattern.match(text):
                text = text[match.end() :]
                done.add(name)
    if cuts := [at for end in _ENDS[kind] if (at := text.find(end)) > 0]:
        text = text[: min(cuts)].rstrip()
        done.add("turn")
    if (bare := unquoted(text)) != text:
        text = bare
        done.add("quotes")
    return text, sorted(done)


def unquoted(text: str) -> str:
    """A text without the pair of double quotation marks around it, if one pair encloses the whole text."""
    enclosed = len(text) > 2 and text[0] + text[-1] in ('""', "“”") and not set(text[1:-1]) & set('"“”')
    return text[1:-1].strip() if enclosed else text


def flags(text: str, kind: str, finish: str, context: Context) -> list[str]:
    """The names of what is wrong with a stripped text, in the order of FLAGS; the module's docstring explains them."""
    own = (context.prompt, context.answer)
    found = {
        "empty": not words(text),
        "cut": finish == "length",
        "turn": bool(_TURN.search(text)),
        "request": parrots(context.request, text) or (kind == "revision" and shares(text, context.request, own, RUN)),
        "repeated": repeats(text, context.critique if kind == "revision" else context.answer),
        "loop": loops(text),
        "example": takes(text, context),
        "unchanged": kind == "revision" and bool(words(text)) and words(text) == words(context.answer),
        "comment": kind == "revision" and bool(_COMMENT.search(text)) and not _COMMENT.search(context.prompt),
    }
    return [f"{kind}-{name}" for name in FLAGS if found[name]]


def cleaned(done: Completion, kind: str, context: Context) -> tuple[str, list[str], TextMeta]:
    """(text, flags, meta) of a completion. If anything was stripped, `meta` names it and holds the raw text."""
    text, stripped = strip(done.text, kind)
    meta = done.meta()
    if stripped:
        meta |= {"stripped": stripped, "raw": done.text}
    finish = "stop" if "turn" in stripped else done.finish  # the truncated part was stripped with the turn
    finish = finish if done.answered else "length"
    return text, flags(text, kind, finish, context), meta


_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


# Kept, because a text is compared with several others, and few-shot examples with the texts of every record.
@lru_cache(maxsize=64)
def words(text: str) -> tuple[str, ...]:
    """The words of a text, in lower case, without punctuation."""
    return tuple(_WORD.findall(text.lower()))


@lru_cache(maxsize=64)
def _runs(text: str, n: int) -> tuple[tuple[str, ...], ...]:
    """Every n words in a row of a text."""
    found = words(text)
    return tuple(zip(*(found[i:] for i in range(n)), strict=False))


@lru_cache(maxsize=64)
def _run_set(text: str, n: int) -> frozenset[tuple[str, ...]]:
    return frozenset(_runs(text, n))


def repeats(text: str, other: str) -> bool:
    """Whether most runs of GRAM words of `text` occur in `other`. A text of few runs must equal `other`."""
    runs = _runs(text, GRAM)
    if len(runs) < GRAM:
        return bool(words(text)) and words(text) == words(other)
    there = _run_set(other, GRAM)
    return sum(run in there for run in runs) > SHARE * len(runs)


def parrots(request: str, text: str) -> bool:
    """Whether a text holds most of a request, or the whole of one that has four words or more."""
    asked = words(request)
    return repeats(request, text) or (len(asked) >= 4 and f" {' '.join(asked)} " in f" {' '.join(words(text))} ")


def loops(text: str) -> bool:
    """Whether a run of GRAM words occurs three times or more."""
    return any(count >= 3 for count in Counter(_runs(text, GRAM)).values())


def shares(text: str, other: str, shown: Sequence[str], n: int) -> bool:
    """Whether `text` and `other` share a run of n words that no text of `shown` holds."""
    runs = _run_set(text, n) & _run_set(other, n)
    return bool(runs) and not runs <= frozenset().union(*(_run_set(part, n) for part in shown))


def takes(text: str, context: Context) -> bool:
    """Whether a text shares a run of LEAK words with an example that nothing else shown to the model holds."""
    shown = (context.prompt, context.answer, context.request, context.critique)
    return any(shares(text, example, shown, LEAK) for example in context.examples)
