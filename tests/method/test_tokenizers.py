"""Tokenizers of other families: training, scoring and generation see the same tokens, and spelled control tokens stay text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_cli.data.records import assistant, user
from cai_cli.engines.base import common_prefix
from cai_cli.method.prompts import ANSWER, OPTIONS, Prompt
from cai_cli.method.tokens import KEPT, Renderer
from tests.tiny import CHARACTERS, piece_tokenizer

KINDS = ("bpe", "unigram", "byte-level")
CONTROL = ("<|im_start|>", "<|im_end|>", "<s>")
TEXTS = st.lists(st.sampled_from([*CONTROL, "</think>", "<|im_", "The answer", " is", *CHARACTERS]), max_size=10).map("".join)


@pytest.fixture(scope="module")
def renderers() -> dict[str, Renderer]:
    return {kind: Renderer(piece_tokenizer(kind)) for kind in KINDS}


def read(tokenizer: Any, ids: list[int]) -> str:
    """The characters of some tokens, control tokens too, without the space that begins a text."""
    return str(tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)).removeprefix(" ")


@pytest.mark.parametrize("kind", KINDS)
@given(question=TEXTS, answer=TEXTS)
@settings(deadline=None, max_examples=60)
def test_an_answer_has_the_same_tokens_in_training_scoring_and_generation(
    renderers: dict[str, Renderer], kind: str, question: str, answer: str
) -> None:
    renderer = renderers[kind]
    question, answer = f"a{question}b", f"c{answer}d"  # templates strip white space at the ends
    prompt = Prompt(messages=[user(question)])
    generated, _ = renderer.render(prompt)
    asked, learned = renderer.completion(prompt, answer)
    scored = renderer.score_request(Prompt(messages=[user(question), assistant(answer)])).ids
    control = [renderer.tokenizer.get_vocab()[token] for token in CONTROL]

    assert asked == generated
    assert asked + learned == scored[: len(asked + learned)]
    assert not set(learned) & set(control)
    assert [token for token in scored if token in control] == [control[0], control[1], control[0], control[1]]
    # a space may stand after a control token: these tokenizers put it there, in generation too
    want = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}"
    assert read(renderer.tokenizer, asked + learned).replace("> ", ">") == want.replace("> ", ">")


@pytest.mark.parametrize("kind", KINDS)
def test_a_letter_is_the_token_that_follows_the_prompt(renderers: dict[str, Renderer], kind: str) -> None:
    renderer = renderers[kind]
    request = renderer.choice(Prompt(messages=[user("Which?")], prefill=ANSWER, end=ANSWER), OPTIONS)
    for letter, token in (request.options or {}).items():
        assert [*request.ids, token] == renderer.tokenizer(request.text + letter, add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_spelled_control_token_reads_as_the_same_characters(renderers: dict[str, Renderer], kind: str) -> None:
    renderer = renderers[kind]
    ids, _ = renderer.render(Prompt(text="is <|im_end|> and </think> it"))
    assert read(renderer.tokenizer, ids).removeprefix("<s>").strip() == "is <|im_end|> and </think> it"


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TEXTS, max_size=4))
@settings(deadline=None, max_examples=100)
def test_kept_pieces_of_a_prompt_have_the_tokens_of_the_whole(
    renderers: dict[str, Renderer], kind: str, texts: list[str]
) -> None:
    """Control tokens of the template divide a text, and what follows each is tokenised once per run."""
    renderer = renderers[kind]
    for text in [*texts, "".join(texts)]:
        assert renderer._ids(text) == renderer.tokenizer(text, add_special_tokens=False).input_ids


@given(same=st.lists(st.integers(0, 1)), one=st.lists(st.integers(0, 1)), two=st.lists(st.integers(0, 1)))
def test_the_common_prefix_is_the_longest(same: list[int], one: list[int], two: list[int]) -> None:
    length = common_prefix(same + one, same + two)
    assert length >= len(same)
    assert (same + one)[:length] == (same + two)[:length]
    assert (same + one)[: length + 1] != (same + two)[: length + 1] or length == min(len(one), len(two)) + len(same)


def test_the_kept_pieces_are_bounded(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["bpe"]
    for number in range(KEPT + 10):
        renderer._ids(f"ab{number}<|im_end|>cd")
    assert len(renderer._kept) == KEPT
    assert "<|im_end|>cd" in renderer._kept


def test_real_tokenizers_divide_too(real_renderer: Renderer) -> None:
    text = "<|im_start|>user\nTwo  spaces,\n\n a line <|im_end|> <|im_end|>\n<|im_start|>assistant\n"
    assert real_renderer._divider
    assert real_renderer._ids(text) == real_renderer.tokenizer(text, add_special_tokens=False).input_ids
