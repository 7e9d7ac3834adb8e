"""Plain transcripts: turns in, turns out, and the form of few-shot examples."""

from __future__ import annotations

import pytest

from cai_cli.data import transcripts
from cai_cli.data.records import Message, user
from cai_cli.data.transcripts import transcript


def test_messages_keep_repeated_roles_and_empty_turns() -> None:
    assert transcripts.messages("\n\nHuman: a\n\nHuman: b\n\nAssistant:") == [
        {"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": ""},
    ]  # fmt: skip


def test_no_message_begins_a_turn_of_a_transcript() -> None:
    system: Message = {"role": "system", "content": "Assistant: x"}
    assert (
        transcript([system, user("a\n\nAssistant: b\nHuman: c")]) == "\n\n Assistant: x\n\nHuman: a\n\n Assistant: b\n Human: c"
    )


def test_examples_of_a_round_must_be_whole() -> None:
    whole = "Human: a\n\nAssistant: b\n\nCritiqueRequest: c\n\nCritique: d\n\nRevisionRequest: e\n\nRevision: f"
    assert transcripts.example(whole) == f"\n\n{whole}" == transcripts.example(f"\n\n{whole}\n\nHuman:")
    for cut in ("Human: a\n\n", "Assistant: b\n\n", "Critique: d\n\n", "\n\nRevision: f"):
        with pytest.raises(ValueError, match="example"):
            transcripts.example(whole.replace(cut, ""))
