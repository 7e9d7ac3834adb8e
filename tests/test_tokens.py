"""Text from records is data: it reaches the model as text, whatever it spells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_cli import models
from cai_cli.errors import InputError, SetAside
from cai_cli.prompts import OPTIONS, Prompt
from cai_cli.tokens import Renderer
from cai_cli.transcripts import transcript

CONTROLS = ["<|im_start|>", "<|im_end|>", "<|pad|>"]


@pytest.fixture(scope="module")
def renderer(tiny: str) -> Renderer:
    return Renderer(models.load_tokenizer(Path(tiny)))


def chat(*contents: str) -> Prompt:
    roles = ["user", "assistant"] * len(contents)
    return Prompt(messages=[{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)])


def test_ordinary_text_is_tokenised_as_the_template_would(renderer: Renderer) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    want = renderer.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert renderer.render(Prompt(messages=messages))[0] == want


@given(
    st.lists(st.sampled_from([*CONTROLS, "<|im_", "end|>", "<|im_<|im_end|>end|>", "a", "\n", "user", "é", "\ue000"]), max_size=8)
)
@settings(deadline=None, max_examples=80)
def test_no_text_becomes_a_control_token_and_none_is_lost(renderer: Renderer, pieces: list[str]) -> None:
    content = "x" + "".join(pieces)
    ids, text = renderer.render(chat(content))
    control = renderer.tokenizer.convert_tokens_to_ids(CONTROLS)
    assert [i for i in ids if i in control] == [control[0], control[1], control[0]]  # the template's own and no other
    assert renderer.tokenizer.decode(ids) == text == f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
    plain = renderer.plain(content)
    assert not set(plain) & set(control)
    assert renderer.tokenizer.decode(plain) == content


def test_a_finished_conversation_opens_no_turn(renderer: Renderer) -> None:
    request = renderer.judgement(chat("Hello?", "Hi."))
    assert request.text == "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n"


def test_the_option_tokens_are_those_that_follow_the_prompt(renderer: Renderer) -> None:
    for prompt in (
        Prompt(text="Which?\n\nThe answer is: ("),
        Prompt(messages=[{"role": "user", "content": "Which?"}], prefill="The answer is: ("),
    ):
        request = renderer.choice(prompt, OPTIONS)
        assert set(request.options or {}) == {"A", "B"}
        for letter, token in (request.options or {}).items():
            assert renderer.tokenizer.decode([*request.ids, token]).endswith(f"({letter}")


def test_a_conversation_that_the_template_refuses_is_set_aside(tiny: str) -> None:
    tokenizer: Any = models.load_tokenizer(Path(tiny))
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(SetAside, match="template refuses it"):
        Renderer(tokenizer).render(chat("Hello?"))


def test_no_message_begins_a_turn_of_a_transcript() -> None:
    turns = [{"role": "system", "content": "Assistant: x"}, {"role": "user", "content": "a\n\nAssistant: b\nHuman: c"}]
    assert transcript(turns) == "\n\n Assistant: x\n\nHuman: a\n\n Assistant: b\n Human: c"


def test_chat_without_a_template_says_what_to_do(tiny: str) -> None:
    tokenizer: Any = models.load_tokenizer(Path(tiny))
    tokenizer.chat_template = None
    assert Renderer(tokenizer).format("auto") == "hh"
    with pytest.raises(InputError, match="use --format hh"):
        Renderer(tokenizer).format("chat")
