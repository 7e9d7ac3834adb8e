"""What small models leak into a critique or a revision: strip what is safely stripped, flag the rest.

Stripped, and named in the text's `meta` with the text as it was:
    label       "Revision:", "**Revised response:**" at the start
    preamble    "Here is the revised response:" at the start
    quotes      one pair of quotation marks around the whole
    turn        after a blank line "Human:" or a request, and all that follows (after a critique any part of a transcript)

Flagged, on the round, as `critique-...` or `revision-...`:
    empty       no word in it
    cut         it ran to --max-tokens
    turn        a line that begins another part, or another speaker's turn, and wasn't stripped
    request     it repeats the request, or a revision RUN words of it in a row
    repeated    a critique that repeats the answer, a revision that repeats the critique
    loop        it says the same GRAM words three times or more
    example     it takes words from a few-shot example
    unchanged   a revision that is the answer it should revise (but for spaces and punctuation)
    comment     a revision that speaks about the answer instead of giving one
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cai_cli.engines.base import Completion
from cai_cli.transcripts import CRITIQUE_REQUEST, HUMAN, REVISION_REQUEST, STOPS

RUN = 8
"""Words in a row that a revision shares with the request before it is said to repeat it."""
LEAK = 6
"""Words in a row that a text shares with an example before it is said to take from it."""
GRAM = 5
SHARE = 0.5
"""Share of a text's runs of GRAM words that stand in another before it is said to repeat it."""

_NEW = r"(?:revised|rewritten|edited|rephrased|improved|updated|corrected|new|final)"
_NOUN = r"(?:response|answer|reply|version|revision|text)"
_OWN = rf"(?:the |my |your )?{_NEW} (?:assistant(?:'s|\u2019s)? )?{_NOUN}(?: \d+| \([^)\n]{{1,40}}\))?"
_LABELS = {"critique": r"(?:critique|criticism|assistant|AI)", "revision": rf"(?:{_OWN}|revision|rewritten|assistant|AI)"}
"""Labels that stand for nothing else before a colon."""
_LINE_LABELS = r"(?:response|answer|reply)"
"""Labels that do so on a line of their own."""
_FEW = r"[^\n:.!?]{0,60}"
_DONE = r"(?:revised|rewritten|rewrote|edited|rephrased)"
_PREAMBLES = {
    "critique": r"(?:critique|criticism)",
    "revision": rf"(?:{_NEW}\b{_FEW}\b{_NOUN}|{_NOUN}{_FEW}\b{_DONE}|{_DONE}\b{_FEW}\b{_NOUN})",
}
_MANNERS = r"(?:(?:sure|certainly|of course|okay|ok|absolutely|i(?:'m| am)? (?:apologize|sorry))\b[^\n:.!?]{0,60}[.!,]?\s+)?"
_HERE = rf"(?:here(?:'s|\u2019s| is| are)|below is|the following is|i(?:'ve|\u2019ve| have)?(?= {_DONE}))\b"
_ENDS = {"critique": STOPS, "revision": (HUMAN, CRITIQUE_REQUEST, REVISION_REQUEST)}
"""What surely begins another part, so that it and all after it goes."""
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
    """What a generated text of a round is held against. `critique` is empty for a critique."""

    answer: str
    request: str
    prompt: str = ""
    critique: str = ""
    examples: Sequence[str] = ()


def _edges(kind: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(labels, preambles) that may stand before a text of this kind, with the white space after them."""
    name = _LABELS[kind]
    bold = rf"\*\*{name}\s?:\*\*|\*\*{name}\*\*\s?:"
    forms = rf"{bold}|{name}\s?:|#{{1,4}} *{name}\s?:?(?=\n)|{_LINE_LABELS}:(?=\s*\n)"
    end = r"(?::|\.?(?=[^\S\n]*\n[^\S\n]*\n))"  # a colon, or else a line and a blank one
    return (
        re.compile(rf"(?:{forms})\s*", re.I),
        re.compile(rf"{_MANNERS}{_HERE}{_FEW}{_PREAMBLES[kind]}{_FEW}{end}\s*", re.I),
    )


_EDGES = {kind: _edges(kind) for kind in _LABELS}


def strip(text: str, kind: str) -> tuple[str, list[str]]:
    """(text without what surely isn't part of it, names of what was stripped). `kind`: critique or revision."""
    label, preamble = _EDGES[kind]
    done: set[str] = set()
    text = text.strip()
    for _ in range(2):  # a label may stand before a preamble, and after it
        for name, pattern in (("label", label), ("preamble", preamble)):
            if match := pattern.match(text):
                text = text[match.end() :]
                done.add(name)
    if cuts := [at for end in _ENDS[kind] if (at := text.find(end)) > 0]:
        text = text[: min(cuts)].rstrip()
        done.add("turn")
    if len(text) > 2 and text[0] + text[-1] in ('""', "“”") and not set(text[1:-1]) & set('"“”'):
        text = text[1:-1].strip()
        done.add("quotes")
    return text, sorted(done)


def flags(text: str, kind: str, finish: str, context: Context) -> list[str]:
    """What is wrong with a stripped text, as names; see the module's list."""
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


def cleaned(done: Completion, kind: str, context: Context) -> tuple[str, list[str], dict[str, object]]:
    """(text, flags, meta) of a completion. `meta` names what was stripped, and keeps the text as it was, if any was."""
    text, stripped = strip(done.text, kind)
    more = {"stripped": stripped, "raw": done.text} if stripped else {}
    finish = "stop" if "turn" in stripped else done.finish  # what was cut off is gone
    return text, flags(text, kind, finish, context), {**done.meta(), **more}


def words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return re.findall(r"\w+(?:['\u2019]\w+)*", text.lower())


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def repeats(text: str, other: str) -> bool:
    """Whether most of `text`, by its runs of GRAM words, stands in `other`, or all of it is `other`."""
    runs = _runs(text, GRAM)
    if len(runs) < GRAM:
        return bool(words(text)) and words(text) == words(other)
    there = set(_runs(other, GRAM))
    return sum(run in there for run in runs) > SHARE * len(runs)


def parrots(request: str, text: str) -> bool:
    """Whether a text holds a request of four words or more, or most of one."""
    asked = words(request)
    return repeats(request, text) or (len(asked) >= 4 and f" {' '.join(asked)} " in f" {' '.join(words(text))} ")


def loops(text: str) -> bool:
    """Whether a run of GRAM words comes three times or more."""
    return any(count >= 3 for count in Counter(_runs(text, GRAM)).values())


def shares(text: str, other: str, shown: Sequence[str], n: int) -> bool:
    """Whether a run of n words stands in `other`, and in nothing of `shown`."""
    runs = set(_runs(text, n)) & set(_runs(other, n))
    return bool(runs) and not runs <= {run for part in shown for run in _runs(part, n)}


def takes(text: str, context: Context) -> bool:
    """Whether a run of LEAK words stands in an example and in nothing else that the model was shown."""
    shown = (context.prompt, context.answer, context.request, context.critique)
    return any(shares(text, example, shown, LEAK) for example in context.examples)
