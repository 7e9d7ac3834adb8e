"""Every prompt that a model is shown, as pure functions: record + principle -> prompt.

Two formats. `chat`: messages for the model's own chat template. `hh`: the paper's plain
transcripts (`\\n\\nHuman:`, `\\n\\nAssistant:`, `CritiqueRequest:`, ...) for base models, with the stops
they need. A round sees the conversation and the current answer, not earlier rounds (paper,
section 3.1 and appendix A).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cai_cli.constitution import Principle
from cai_cli.jsonl import Record
from cai_cli.records import Messages, as_messages, current_answer

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
CRITIQUE_REQUEST, CRITIQUE = "\n\nCritiqueRequest:", "\n\nCritique:"
REVISION_REQUEST, REVISION = "\n\nRevisionRequest:", "\n\nRevision:"
STOPS = (HUMAN, ASSISTANT, CRITIQUE_REQUEST, REVISION_REQUEST, CRITIQUE, REVISION)
_MARKER = re.compile(r"(\n\s*)(Human|Assistant|CritiqueRequest|Critique|RevisionRequest|Revision):")
_NAMES = {"user": HUMAN, "assistant": ASSISTANT}
OPTIONS = ("A", "B")
"""The letters under which the two answers of a comparison stand."""


@dataclass(frozen=True)
class Prompt:
    """What to put before a model: chat `messages`, or a plain `text`.

    `prefill` begins the assistant's answer (chat only). `stop` are strings that end a completion.
    """

    messages: Messages | None = None
    text: str = ""
    prefill: str = ""
    stop: tuple[str, ...] = ()


def merge_turns(messages: Messages) -> Messages:
    """Messages with neighbours of one role joined by a blank line, as chat templates expect."""
    merged: Messages = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**merged[-1], "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append({"role": message["role"], "content": message["content"]})
    return merged


def inert(text: str) -> str:
    """Text that can't begin a turn of a transcript: a space goes before each marker's name."""
    return _MARKER.sub(r"\1 \2:", text)


def transcript(messages: Messages) -> str:
    """The paper's plain form of a conversation, without a trailing `Assistant:`."""
    parts = []
    for message in messages:
        name, content = _NAMES.get(message["role"]), message["content"]
        parts.append(f"{name} {inert(content)}" if name else inert(f"\n\n{content}"))
    return "".join(parts)


def _prompt(messages: Messages, format: str, tail: str) -> Prompt:
    if format == "chat":
        return Prompt(messages=merge_turns(messages))
    return Prompt(text=transcript(messages) + tail, stop=STOPS)


def answer(record: Record, format: str) -> Prompt:
    """The prompt of `cai sample`: the conversation, and the assistant's turn."""
    return _prompt(as_messages(record["prompt"]), format, ASSISTANT)


def _answered(record: Record, text: str) -> Messages:
    return [*as_messages(record["prompt"]), {"role": "assistant", "content": text}]


def critique(record: Record, principle: Principle, format: str) -> Prompt:
    """The conversation with its current answer, then the principle's critique request."""
    messages = _answered(record, current_answer(record))
    request = principle.critique or ""
    if format == "chat":
        return _prompt([*messages, {"role": "user", "content": request}], format, "")
    return _prompt(messages, format, f"{CRITIQUE_REQUEST} {request}{CRITIQUE}")


def revision(record: Record, principle: Principle, critique_text: str, format: str) -> Prompt:
    """The critique's prompt, the critique, then the principle's revision request."""
    messages = _answered(record, current_answer(record))
    ask, request = principle.critique or "", principle.revision or ""
    if format == "chat":
        turns = [("user", ask), ("assistant", critique_text), ("user", request)]
        return _prompt([*messages, *({"role": r, "content": c} for r, c in turns)], format, "")
    tail = f"{CRITIQUE_REQUEST} {ask}{CRITIQUE} {inert(critique_text)}{REVISION_REQUEST} {request}{REVISION}"
    return _prompt(messages, format, tail)


def comparison(prompt: str | Messages, first: str, second: str, principle: Principle, format: str) -> Prompt:
    """The feedback model's question (paper, section 4.1): which of two answers is better.

    Ends where the option's letter is the next token.
    """
    question = (
        f"\n\nConsider the following conversation between a human and an assistant:"
        f"{transcript(as_messages(prompt))}\n\n\n{principle.compare} Options:"
        f"\n (A) [[[{inert(first)}]]]\n (B) [[[{inert(second)}]]]"
    )
    if format == "chat":
        return Prompt(messages=[{"role": "user", "content": question.strip()}], prefill="The answer is: (")
    return Prompt(text=f"{question}\n\nThe answer is: (")


def judged(prompt: str | Messages, answer_text: str, format: str) -> Prompt:
    """What a preference model reads: the conversation with one answer, no generation prompt."""
    messages = [*as_messages(prompt), {"role": "assistant", "content": answer_text}]
    return _prompt(messages, format, "")


def judged_side(record: Record, side: str, format: str) -> Prompt:
    """What a preference model reads of a preference's `chosen` or `rejected`.

    Each may be a string or messages, with the record's `prompt` before it where there is one; a
    string without a prompt is a whole conversation as plain text and is read as it stands.
    """
    value = record[side]
    if isinstance(value, str):
        return judged(record["prompt"], value, format) if "prompt" in record else Prompt(text=value)
    conversation = [*(as_messages(record["prompt"]) if "prompt" in record else []), *value]
    return judged(conversation[:-1], conversation[-1]["content"], format)
