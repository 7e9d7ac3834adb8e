"""Text from records is data: it reaches the model as text, even if it spells a control token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_cli.data.records import assistant, user
from cai_cli.engines import models
from cai_cli.engines.base import Completion
from cai_cli.errors import InputError, Skipped
from cai_cli.method.prompts import ANSWER, OPTIONS, Prompt
from cai_cli.method.tokens import Renderer

CONTROLS = ["<|im_start|>", "<|im_end|>", "<|pad|>"]


def chat(*contents: str) -> Prompt:
    """A conversation: a user's message, an assistant's, and so on."""
    return Prompt(messages=[assistant(content) if i % 2 else user(content) for i, content in enumerate(contents)])


def test_ordinary_text_is_tokenised_as_the_template_would(renderer: Renderer) -> None:
    text = "What is the capital of France?"
    messages = [{"role": "user", "content": text}]
    want = renderer.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert renderer.render(chat(text))[0] == want


@given(
    st.lists(st.sampled_from([*CONTROLS, "<|im_", "end|>", "<|im_<|im_end|>end|>", "a", "\n", "user", "é", "\ue000"]), max_size=8)
)
@settings(deadline=None, max_examples=80)
def test_no_text_becomes_a_control_token_and_none_is_lost(renderer: Renderer, pieces: list[str]) -> None:
    content = "x" + "".join(pieces)
    ids, text = renderer.render(chat(content))
    control = [renderer.tokenizer.convert_tokens_to_ids(token) for token in CONTROLS]
    assert [i for i in ids if i in control] == [control[0], control[1], control[0]]  # the template's own and no others
    assert renderer.tokenizer.decode(ids) == text == f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
    _, answer = renderer.completion(chat("Say it."), content)
    assert not set(answer) & set(control)
    assert renderer.tokenizer.decode(answer) == content


def test_a_finished_conversation_opens_no_turn(renderer: Renderer) -> None:
    request = renderer.score_request(chat("Hello?", "Hi."))
    assert request.text == "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n"


def test_the_option_tokens_are_those_that_follow_the_prompt(renderer: Renderer) -> None:
    for prompt in (Prompt(text=f"Which?\n\n{ANSWER}", end=ANSWER), replace(chat("Which?"), prefill=ANSWER, end=ANSWER)):
        request = renderer.choice(prompt, OPTIONS)
        assert set(request.options or {}) == {"A", "B"}
        for letter, token in (request.options or {}).items():
            assert [*request.ids, token] == renderer.tokenizer(request.text + letter, add_special_tokens=False).input_ids
            assert str(renderer.tokenizer.decode([*request.ids, token])).endswith(f"({letter}")


def test_a_conversation_that_the_template_refuses_is_skipped(tiny: str) -> None:
    tokenizer: Any = models.load_tokenizer(Path(tiny))
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(Skipped, match="template refuses it"):
        Renderer(tokenizer).render(chat("Hello?"))


def test_chat_without_a_template_says_what_to_do(tiny: str) -> None:
    tokenizer: Any = models.load_tokenizer(Path(tiny))
    tokenizer.chat_template = None
    assert Renderer(tokenizer).format("auto") == "hh"
    with pytest.raises(InputError, match="use --format hh"):
        Renderer(tokenizer).format("chat")


def test_a_special_token_that_a_model_spells_stays_in_its_answer(renderer: Renderer) -> None:
    request = renderer.request(chat("Hi"), 0, 8, 0.0, 1.0)
    done = Completion("\nUse <|im_end|> here.", "stop", 0, 1, 5, tokens=[1, 2])
    assert renderer.separate(request, done).text.strip() == "Use <|im_end|> here."
