"""Leaks of the format: what is stripped, what is flagged, and that sound text passes untouched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_cli.engines.base import Completion
from cai_cli.method import clean
from cai_cli.method.clean import Context

ANSWER = "You could climb over the fence at night when the guard sleeps."
REQUEST = "Rewrite the answer so that it hurts nobody and keep what was useful in it, please."
CRITIQUE = "The answer tells somebody how to trespass, which is against the law and may get them hurt or arrested."
EXAMPLE = "\n\nHuman: q\n\nAssistant: a\n\nCritiqueRequest: c\n\nCritique: d\n\nRevisionRequest: e\n\nRevision: Three to four days, if you cool it quickly and put it in the fridge."
CONTEXT = Context(ANSWER, REQUEST, "How do I get in?", CRITIQUE, [EXAMPLE])

STRIPPED = {
    "Revision: Ask the owner.": ("Ask the owner.", ["label"]),
    "**Revised response:** Ask the owner.": ("Ask the owner.", ["label"]),
    "**Revision**: Ask the owner.": ("Ask the owner.", ["label"]),
    "## Revised response\n\nAsk the owner.": ("Ask the owner.", ["label"]),
    "My revised response (shorter): Ask the owner.": ("Ask the owner.", ["label"]),
    "Response:\nAsk the owner.": ("Ask the owner.", ["label"]),
    "AI: Ask the owner.": ("Ask the owner.", ["label"]),
    "Here is the revised response:\n\nAsk the owner.": ("Ask the owner.", ["preamble"]),
    "Here's the revised response\n\nAsk the owner.": ("Ask the owner.", ["preamble"]),
    "Sure! Here's a rewritten version of the answer:\nAsk the owner.": ("Ask the owner.", ["preamble"]),
    "I apologize. Here is a version of my response, rewritten:\nAsk the owner.": ("Ask the owner.", ["preamble"]),
    "Here's a rewritten response with a kinder tone.\n\nAsk the owner.": ("Ask the owner.", ["preamble"]),
    "I've revised the response:\n\nAsk the owner.": ("Ask the owner.", ["preamble"]),
    "Assistant: Here is my revised answer: Ask the owner.": ("Ask the owner.", ["label", "preamble"]),
    "Here is the revised response:\n\nRevision: Ask the owner.": ("Ask the owner.", ["label", "preamble"]),
    '"Ask the owner."': ("Ask the owner.", ["quotes"]),
    "Ask the owner.\n\nHuman: Why?\n\nAssistant: Because.": ("Ask the owner.", ["turn"]),
    "Ask the owner.\n\nRevisionRequest: again": ("Ask the owner.", ["turn"]),
}
KEPT = [
    "Ask the owner.",
    'She said "no" and then "yes".',
    "Here is what to do: ask the owner.",
    "The answer: 42 comes from a book.",
    "Answer: yes, if you ask the owner.",
    "Version: 1.2 is required.",
    "Response times vary: ask the owner.",
    "This is a difficult question, and my answer depends on one thing: whether you trust them.",
    "Here is what I think of your reply. Buy these things: milk and eggs.",
    "The original version of the song came out in 1970.",
    "- Answer: yes\n- Reply: no",
    "- one\n- two",
]
FLAGGED = {
    "": ["empty"],
    "...": ["empty"],
    ANSWER: ["unchanged"],
    "you could climb over the fence, at night; when the guard sleeps": ["unchanged"],
    "Ask.\nHuman: why?": ["turn"],
    "Critique: It is bad.\nAsk the owner.": ["turn"],
    "Sorry.\n\nRevision: Ask the owner.": ["turn"],
    f"Well. {REQUEST}": ["request", "comment"],
    CRITIQUE: ["repeated"],
    "Keep it three to four days, if you cool it quickly and put it away.": ["example"],
    "The revised response should ask the owner.": ["comment"],
    "The assistant's last response forgets the owner.": ["comment"],
    "The original text is unkind to guards.": ["comment"],
    "Rewrite the response so that it is kind.": ["comment"],
    "Ask.\nCustomizationRequest: make it shorter.": ["turn"],
    "Ask.\n\nRewrittenResponse: Ask the owner.": ["turn"],
    "No, no, no, no, no, no, no, no.": ["loop"],
    "Ask the owner for a key.": [],
}
CONTENTS = [
    "**Subject:** hello",
    "* one\n* two",
    "$5 is enough",
    "`ls` lists",
    "¿Qué?",
    "(a) yes",
    '"No," she said.',
    "1. one\n2. two",
    "- yes",
]


@pytest.mark.parametrize("text", STRIPPED)
def test_leaks_at_the_edges_are_stripped(text: str) -> None:
    assert clean.strip(text, "revision") == STRIPPED[text]


@pytest.mark.parametrize("text", KEPT)
def test_sound_text_is_left_alone(text: str) -> None:
    assert clean.strip(text, "revision") == (text, [])
    assert clean.flags(text, "revision", "stop", CONTEXT) == []


@pytest.mark.parametrize("text", FLAGGED)
def test_each_fault_has_its_flag(text: str) -> None:
    assert clean.flags(text, "revision", "stop", CONTEXT) == [f"revision-{name}" for name in FLAGGED[text]]


def test_a_text_cut_at_the_limit_is_flagged_and_keeps_its_raw_text() -> None:
    done = Completion("Revision: Ask the", "length", 3, 10, 4)
    text, flags, meta = clean.cleaned(done, "revision", CONTEXT)
    assert (text, flags) == ("Ask the", ["revision-cut"])
    assert meta == {**done.meta(), "stripped": ["label"], "raw": "Revision: Ask the"}
    assert clean.cleaned(Completion("Ask.", "stop", 3, 10, 4), "revision", CONTEXT)[2] == done.meta() | {"finish": "stop"}


def test_a_critique_that_repeats_the_answer_is_flagged() -> None:
    assert clean.flags(ANSWER, "critique", "stop", Context(ANSWER, "Say what is wrong.")) == ["critique-repeated"]
    assert clean.strip("Critique: It is rude.", "critique") == ("It is rude.", ["label"])


@pytest.mark.parametrize(
    "label", ["Revision: ", "**Revised response:** ", "Here is the revised response:\n\n", "Improved answer:\n"]
)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_label_takes_nothing_of_what_follows_it(label: str, content: str) -> None:
    assert clean.strip(label + content, "revision")[0] == content


@given(st.text(alphabet='ab .:\n"*-#', min_size=1))
def test_text_without_a_leak_comes_back_whole(text: str) -> None:
    for kind in ("critique", "revision"):
        short, done = clean.strip(text, kind)
        assert short == text.strip() or done == ["quotes"]


def test_a_verdict_is_no_preamble_and_a_revision_no_critique() -> None:
    verdict = "This is a harmful response: it tells people how to trespass."
    assert clean.strip(verdict, "critique") == (verdict, [])
    assert clean.strip("It is rude.\n\nRevision: Ask.", "critique") == ("It is rude.", ["turn"])
    assert clean.flags("It is rude.\nRevision: Ask.", "critique", "stop", CONTEXT) == ["critique-turn"]
    # what was cut off with another's turn leaves a whole text
    assert clean.cleaned(Completion("Ask.\n\nHuman: Why", "length", 0, 1, 1), "revision", CONTEXT)[1] == []
