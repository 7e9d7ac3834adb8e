"""Records to training examples: which tokens carry the loss."""

from __future__ import annotations

from cai_cli.method import prompts
from cai_cli.method.tokens import Renderer
from cai_cli.training import examples
from tests.rows import rl_prompts


def test_the_loss_is_on_the_answer_and_its_end_only(renderer: Renderer) -> None:
    end = examples.turn_end(renderer, "chat")
    record = {"prompt": "Say <|im_end|> twice", "response": "It is <|im_start|> me"}
    example = examples.sft_example(renderer, "chat", end, *examples.conversations(record, "all")[0], 512)
    trained = [token for token in example["labels"] if token != -100]
    assert renderer.tokenizer.decode(trained) == "It is <|im_start|> me<|im_end|>"
    assert trained == example["input_ids"][-len(trained) :]
    # only the template's own control tokens: what the record spells stays text
    names = [renderer.tokenizer.convert_ids_to_tokens(token) for token in example["input_ids"]]
    assert names.count("<|im_start|>") == 2
    assert names.count("<|im_end|>") == 2


def test_every_answer_of_a_record_is_trained_on() -> None:
    two = {"id": "a", "prompt": "Hi", "responses": ["One.", "Two."]}
    assert examples.sft_error(two) is None
    assert [answer for _, answer in examples.conversations(two, "all")] == ["One.", "Two."]
    assert examples.sft_error({**two, "responses": "One."}) == "'responses' must be a list of strings"


def test_prompts_are_those_of_cai_sample(renderer: Renderer) -> None:
    record = rl_prompts(1)[0]
    example = examples.rl_prompt(renderer, "chat", record, 100)
    assert example["ids"] == renderer.render(prompts.answer(record, "chat"))[0]
    names = [renderer.tokenizer.convert_ids_to_tokens(token) for token in example["ids"]]
    assert names.count("<|im_end|>") == 1  # the template's; the one in the prompt is text
