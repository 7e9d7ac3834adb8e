"""Plain transcripts, as in the paper and in hh-rlhf: a turn begins with `\n\nHuman:` or `\n\nAssistant:`.

A round of the supervised stage (paper, section 3.1) adds the parts `CritiqueRequest:`, `Critique:`, `RevisionRequest:` and
`Revision:`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from cai_cli.data.jsonl import Record
from cai_cli.data.records import Messages

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
CRITIQUE_REQUEST, CRITIQUE = "\n\nCritiqueRequest:", "\n\nCritique:"
REVISION_REQUEST, REVISION = "\n\nRevisionRequest:", "\n\nRevision:"
STOPS = (HUMAN, ASSISTANT, CRITIQUE_REQUEST, REVISION_REQUEST, CRITIQUE, REVISION)
"""A base model may write one of these when its text is complete and it continues with the next part."""
ROUND = ("CritiqueRequest", "Critique", "RevisionRequest", "Revision")
PRINCIPLE_PLACEHOLDER = "{}"
"""The place of the principle in a few-shot example with reasoning."""
_NAMES = "|".join(("Human", "Assistant", *ROUND))
_MARKER = re.compile(rf"(\n[^\S\n]*)({_NAMES}):")
_SHORT_MARKER = re.compile(r"(\n\s*\n[^\S\n]*)([HA]):")
_GAP = re.compile(r"\n[^\S\n]*\n[^\S\n]*\n\s*")
_BRACKETS = re.compile(r"(\[\[(?=\[)|\]\](?=\]))")
_REASONED = re.compile(
    r"\n*Human: (.*?)\n+Assistant:\s*(?:Let's think step by step:)?(.*)\n\nHuman:\s*So the answer is: \(([AB])\)\s*", re.DOTALL
)
_PART = re.compile(rf"\n\n({_NAMES}):")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_BEGINNINGS = {"user": HUMAN, "assistant": ASSISTANT}
SHORT = {"user": "\n\nH:", "assistant": "\n\nA:"}
"""How turns begin in the conversation that a reasoned comparison is about. It lies inside a `Human:` turn, so its own turns
need other names (paper, appendix E.3)."""
INTRODUCTION = "Consider the following conversation between a human and an assistant:"
REASONED_INTRODUCTION = "Consider the following conversation between a human (H) and an assistant (A):"
_ROLES = {"Human": "user", "Assistant": "assistant"}


def inert(text: str) -> str:
    """Text that cannot begin a turn of a transcript: a space is put before the name in each marker."""
    return _MARKER.sub(r"\1 \2:", text)


def closed(text: str) -> str:
    """Text that cannot begin a turn, and cannot look like the end of a quoted conversation, which is two empty lines."""
    return _GAP.sub("\n\n", inert(text))


def bracketed(text: str) -> str:
    """Text that cannot begin a turn, and cannot open or close the brackets around an answer: `]]]` becomes `]] ]`."""
    return _BRACKETS.sub(r"\1 ", _SHORT_MARKER.sub(r"\1 \2:", inert(text)))


def transcript(messages: Messages, safe: Callable[[str], str] = inert, beginnings: dict[str, str] = _BEGINNINGS) -> str:
    """The plain form of a conversation, without a trailing `Assistant:`.

    `safe` changes each message's text so that it cannot act as a marker. `beginnings` maps roles to markers; a message of
    another role (system) gets none.
    """
    parts = []
    for message in messages:
        name, content = beginnings.get(message["role"]), message["content"]
        parts.append(f"{name} {safe(content)}" if name else safe(f"\n\n{content}"))
    return "".join(parts)


def messages(text: str, exact: bool = False) -> Messages:
    """The turns of a transcript. Outer white space is stripped; with `exact`, only the one space after the colon.

    ValueError if the text does not begin with a turn.
    """
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise ValueError("not a transcript: it must begin with a 'Human:' turn after a blank line")
    turns = (turn.removeprefix(" ") if exact else turn.strip() for turn in parts[1::2])
    return [{"role": _ROLES[name], "content": turn} for name, turn in zip(parts[::2], turns, strict=True)]


def example(text: str) -> str:
    """A few-shot example of a round as prompts hold it: from `\n\nHuman:` to the end of the revision.

    The paper's examples end with `\n\nHuman:`, which is removed. ValueError if a part is missing or in the wrong place.
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
    """(name, stripped text) of each part of an example. ValueError if it does not begin with a part."""
    before, *found = _PART.split(text)
    if before.strip() or not found:
        raise ValueError("an example must begin with 'Human:'")
    return [(name, part.strip()) for name, part in zip(found[::2], found[1::2], strict=True)]


def reasoned(text: str) -> tuple[str, str, str]:
    """(question, reasoning, letter of the better answer) of a reasoned comparison. ValueError if it is not one."""
    found = _REASONED.fullmatch(text)
    if not found:
        raise ValueError(
            "a reasoned comparison needs 'Human:', 'Assistant:' with its reasoning, 'Human:' and 'So the answer is: (A)'"
        )
    return found[1], found[2].strip(), found[3]


def direct(text: str) -> str:
    """A few-shot example without its critique, for a revision without one (paper, figure 7)."""
    return text[: text.index(CRITIQUE_REQUEST)] + text[text.index(REVISION_REQUEST) :]


def pair_prompt(record: Record) -> Messages:
    """The prompt that both transcripts of an hh-rlhf pair share: all turns before the last assistant turn.

    ValueError if they have no prompt, or different ones.
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
    """A transcript's turns before its last assistant turn. ValueError if they are not a prompt. `name` is for the message."""
    turns = messages(text)
    if turns[-1]["role"] != "assistant":
        raise ValueError(f"{name} does not end with an assistant turn")
    if len(turns) < 2 or turns[-2]["role"] != "user" or not turns[-2]["content"]:
        raise ValueError(f"the prompt of {name} does not end with a human turn that has text")
    return turns[:-1]


def repeats_role(turns: Messages) -> bool:
    """Whether two neighbouring turns have the same role."""
    return any(a["role"] == b["role"] for a, b in pairwise(turns))
