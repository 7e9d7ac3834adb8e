"""Plain transcripts, as in the paper and in hh-rlhf: `\n\nHuman:` and `\n\nAssistant:` begin the turns.

A round of the supervised stage adds `CritiqueRequest:`, `Critique:`, `RevisionRequest:` and `Revision:`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from cai_cli.jsonl import Record
from cai_cli.records import Messages

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
CRITIQUE_REQUEST, CRITIQUE = "\n\nCritiqueRequest:", "\n\nCritique:"
REVISION_REQUEST, REVISION = "\n\nRevisionRequest:", "\n\nRevision:"
STOPS = (HUMAN, ASSISTANT, CRITIQUE_REQUEST, REVISION_REQUEST, CRITIQUE, REVISION)
"""What a base model may write where its text is at an end, and begins the next part."""
ROUND = ("CritiqueRequest", "Critique", "RevisionRequest", "Revision")
_NAMES = "|".join(("Human", "Assistant", *ROUND))
_MARKER = re.compile(rf"(\n[^\S\n]*)({_NAMES}):")
_SHORT_MARKER = re.compile(r"(\n\s*\n[^\S\n]*)([HA]):")
_BRACKETS = re.compile(r"(\[\[(?=\[)|\]\](?=\]))")
_REASONED = re.compile(
    r"\n*Human: (.*?)\n+Assistant:\s*(?:Let's think step by step:)?(.*)\n\nHuman:\s*So the answer is: \(([AB])\)\s*", re.DOTALL
)
_PART = re.compile(rf"\n\n({_NAMES}):")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_BEGINNINGS = {"user": HUMAN, "assistant": ASSISTANT}
SHORT = {"user": "\n\nH:", "assistant": "\n\nA:"}
"""How turns begin in the paper's reasoned comparisons, which stand within a turn of their own."""
REASONED_LEAD = "Consider the following conversation between a human (H) and an assistant (A):"
_ROLES = {"Human": "user", "Assistant": "assistant"}


def inert(text: str) -> str:
    """Text that can't begin a turn of a transcript: a space goes before each marker's name."""
    return _MARKER.sub(r"\1 \2:", text)


def bracketed(text: str) -> str:
    """Text that can neither close nor open the brackets around an answer, nor begin a turn: `]]]` becomes `]] ]`."""
    return _BRACKETS.sub(r"\1 ", _SHORT_MARKER.sub(r"\1 \2:", inert(text)))


def transcript(messages: Messages, safe: Callable[[str], str] = inert, beginnings: dict[str, str] = _BEGINNINGS) -> str:
    """The plain form of a conversation, without a trailing `Assistant:`. `safe` makes each text what it must be there."""
    parts = []
    for message in messages:
        name, content = beginnings.get(message["role"]), message["content"]
        parts.append(f"{name} {safe(content)}" if name else safe(f"\n\n{content}"))
    return "".join(parts)


def messages(text: str, exact: bool = False) -> Messages:
    """The turns of a transcript, their texts stripped of outer white space; with `exact` of the space after the colon alone.

    ValueError where it doesn't begin with a turn.
    """
    lead, *parts = _TURN.split(text)
    if lead.strip() or not parts:
        raise ValueError("not a transcript: it must begin with a 'Human:' turn after a blank line")
    turns = (turn.removeprefix(" ") if exact else turn.strip() for turn in parts[1::2])
    return [{"role": _ROLES[name], "content": turn} for name, turn in zip(parts[::2], turns, strict=True)]


def example(text: str) -> str:
    """A few-shot example of a round as prompts hold it: from `\n\nHuman:` to the end of the revision.

    The paper's examples end with `\n\nHuman:`, which goes. ValueError where a part is missing or out of place.
    """
    text = text.removesuffix(HUMAN).removesuffix("\n")
    text = text if text.startswith("\n\n") else f"\n\n{text}"
    names = [name for name, _ in parts(text)]
    turns, round_ = tuple(names[:-4]), tuple(names[-4:])
    if round_ != ROUND or not turns or turns != ("Human", "Assistant") * (len(turns) // 2):
        raise ValueError(
            f"an example needs 'Human:', 'Assistant:', then {', '.join(f'{part!r}' for part in ROUND)}, in this order"
        )
    return text


def parts(text: str) -> list[tuple[str, str]]:
    """(name, text) of each part of an example, texts stripped. ValueError where it doesn't begin with one."""
    lead, *found = _PART.split(text)
    if lead.strip() or not found:
        raise ValueError("an example must begin with 'Human:'")
    return [(name, part.strip()) for name, part in zip(found[::2], found[1::2], strict=True)]


def reasoned(text: str) -> tuple[str, str, str]:
    """(question, thoughts, letter of the better answer) of a reasoned comparison. ValueError where it isn't one."""
    found = _REASONED.fullmatch(text)
    if not found:
        raise ValueError(
            "a reasoned comparison has 'Human:', 'Assistant:' and its thoughts, 'Human:' and 'So the answer is: (A)'"
        )
    return found[1], found[2].strip(), found[3]


def direct(text: str) -> str:
    """An example without its critique: what a revision without one is shown (paper, figure 7)."""
    return text[: text.index(CRITIQUE_REQUEST)] + text[text.index(REVISION_REQUEST) :]


def pair_prompt(record: Record) -> Messages:
    """The prompt that an hh-rlhf pair's `chosen` and `rejected` share: all before the last assistant's turn.

    ValueError says why there is none.
    """
    prompts = []
    for field in ("chosen", "rejected"):
        if not isinstance(record.get(field), str):
            raise ValueError(f"no '{field}' transcript")
        prompts.append(transcript_prompt(record[field], f"'{field}'"))
    if prompts[0] != prompts[1]:
        raise ValueError("the prompts of 'chosen' and 'rejected' differ")
    return prompts[0]


def transcript_prompt(text: str, name: str = "the transcript") -> Messages:
    """A transcript's turns before its last assistant's turn. ValueError says why they aren't a prompt."""
    turns = messages(text)
    if turns[-1]["role"] != "assistant":
        raise ValueError(f"{name} doesn't end with the assistant's turn")
    if len(turns) < 2 or turns[-2]["role"] != "user" or not turns[-2]["content"]:
        raise ValueError(f"the prompt of {name} doesn't end with a human's words")
    return turns[:-1]


def repeats_role(turns: Messages) -> bool:
    """Whether two neighbouring turns are of one role."""
    return any(a["role"] == b["role"] for a, b in pairwise(turns))
