"""Preferences in every form that files have, as one: a prompt, and the messages of the chosen and of the rejected side.

prompt + strings                  TRL's standard form
prompt + messages                 TRL's conversational form, also several messages per side
prompt + whole conversations      the prompt is repeated in both sides, also after a system message, and counts once
whole conversations               no prompt: their common beginning is the prompt
transcripts                       no prompt: strings as hh-rlhf has them, `\\n\\nHuman: ...\\n\\nAssistant: ...`

Messages that both sides begin with, up to a user's, belong to the prompt in each form.
"""

from __future__ import annotations

from typing import NamedTuple

from cai_cli.data import transcripts
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Messages, as_messages, assistant


class Sides(NamedTuple):
    """A preference."""

    prompt: Messages
    """The conversation before the answers; ends with a user's message."""
    chosen: Messages
    """What follows it; begins and ends with an assistant's message. Usually one message."""
    rejected: Messages

    def answers(self) -> tuple[str, str]:
        """The chosen and the rejected answer. ValueError if a side has several messages."""
        if len(self.chosen) > 1 or len(self.rejected) > 1:
            raise ValueError("a side has several messages, and this command compares single answers; leave the record out")
        return self.chosen[0]["content"], self.rejected[0]["content"]


def sides(record: Record) -> Sides:
    """The prompt and the sides of a record that `preference_error` accepts. ValueError says why it has none."""
    prompt = as_messages(record["prompt"]) if "prompt" in record else []
    chosen, rejected = (_conversation(record, side, prompt) for side in ("chosen", "rejected"))
    start = _common(chosen, rejected)
    if not start:
        raise ValueError("there is no user message before the answers")
    found = Sides(chosen[:start], chosen[start:], rejected[start:])
    for name, side in (("chosen", found.chosen), ("rejected", found.rejected)):
        if side[0]["role"] != "assistant" or side[-1]["role"] != "assistant":
            raise ValueError(f"after the prompt '{name}' must begin and end with the assistant's message")
    return found


def _conversation(record: Record, side: str, prompt: Messages) -> Messages:
    """A side as a whole conversation. ValueError if it does not follow the prompt, or is text without a prompt."""
    value: str | Messages = record[side]
    if not isinstance(value, str):
        if not prompt or value[0]["role"] == "assistant":
            return [*prompt, *value]
        turns, asked = _turns(value), _turns(prompt)
        if any(turns[i : i + len(asked)] == asked for i in range(len(turns))):
            return value
        raise ValueError(f"'{side}' must begin with the assistant's message, or contain the prompt")
    if prompt:
        return [*prompt, assistant(value)]
    try:
        return transcripts.messages(value)
    except ValueError:
        raise ValueError("plain text without a 'prompt': give the record a 'prompt', or messages as sides") from None


def _turns(messages: Messages) -> list[tuple[str, str]]:
    """What two messages must have in common to be the same one: some files add keys, or white space at the ends."""
    return [(message["role"], message["content"].strip()) for message in messages]


def _common(chosen: Messages, rejected: Messages) -> int:
    """How many messages two conversations share at the beginning, up to a user's; 0 if there is no such message."""
    same, turns = 0, (_turns(chosen), _turns(rejected))
    while same < min(len(chosen), len(rejected)) - 1 and turns[0][same] == turns[1][same]:
        same += 1
    while same and chosen[same - 1]["role"] != "user":
        same -= 1
    return same
