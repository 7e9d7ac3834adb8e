"""Transcripts of Anthropic's hh-rlhf: plain text in which `\\n\\nHuman:` and `\\n\\nAssistant:` begin the turns."""

from __future__ import annotations

import re

from cai_cli.jsonl import Record
from cai_cli.records import Messages

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def messages(transcript: str) -> Messages:
    """The turns of a transcript, their texts stripped of outer white space.

    ValueError where it doesn't begin with a turn.
    """
    lead, *parts = _TURN.split(transcript)
    if lead.strip() or not parts:
        raise ValueError("not a transcript: it must begin with a 'Human:' turn after a blank line")
    return [{"role": _ROLES[name], "content": text.strip()} for name, text in zip(parts[::2], parts[1::2], strict=True)]


def pair_prompt(record: Record) -> Messages:
    """The prompt that a pair's `chosen` and `rejected` share: all before the last assistant's turn.

    ValueError says why there is none.
    """
    prompts = []
    for field in ("chosen", "rejected"):
        if not isinstance(record.get(field), str):
            raise ValueError(f"no '{field}' transcript")
        turns = messages(record[field])
        if turns[-1]["role"] != "assistant":
            raise ValueError(f"'{field}' doesn't end with the assistant's turn")
        prompts.append(turns[:-1])
    if prompts[0] != prompts[1]:
        raise ValueError("the prompts of 'chosen' and 'rejected' differ")
    if not prompts[0] or prompts[0][-1]["role"] != "user" or not prompts[0][-1]["content"]:
        raise ValueError("its prompt doesn't end with a human's words")
    return prompts[0]
