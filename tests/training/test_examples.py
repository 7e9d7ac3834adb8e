"""Records to training examples: which tokens carry the loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_cli.data.records import assistant
from cai_cli.errors import Skipped
from cai_cli.method import prompts
from cai_cli.method.tokens import Renderer
from cai_cli.training import examples
from tests.rows import read_jsonl, rl_prompts


def test_the_loss_is_on_the_answer_and_its_end_only(renderer: Renderer) -> None:
    end = examples.turn_end(renderer, "chat")
    record = {"prompt": "Say <|im_end|> twice", "response": "It is <|im_start|> me"}
    maker = examples.AnswerMaker(renderer, "chat", end)
    example = examples.sft_example(maker, examples.answers(record, "all")[0], 512, False)
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
    assert [answer.text for answer in examples.answers(two, "all")] == ["One.", "Two."]
    assert examples.sft_error({**two, "responses": "One."}) == "'responses' must be a list of strings"


def test_prompts_are_those_of_cai_sample(renderer: Renderer) -> None:
    record = rl_prompts(1)[0]
    example = examples.rl_prompt(renderer, "chat", record, 100)
    assert example["ids"] == renderer.render(prompts.answer(record, "chat"))[0]
    names = [renderer.tokenizer.convert_ids_to_tokens(token) for token in example["ids"]]
    assert names.count("<|im_end|>") == 1  # the template's; the one in the prompt is text


def test_truncated_answers_do_not_teach_an_end(renderer: Renderer, shared: Path) -> None:
    """They are skipped, or trained on without the tokens that end a turn: of responses, revisions and both sides of a pair."""
    cut, whole = read_jsonl(shared / "cases" / "cut-answers.jsonl")
    maker = examples.AnswerMaker(renderer, "chat", examples.turn_end(renderer, "chat"))
    [answer] = examples.answers(cut, "all")
    with pytest.raises(Skipped, match="truncated at --max-tokens; --keep-cut"):
        examples.sft_example(maker, answer, 512, keep_cut=False)

    def text(ids: list[int]) -> str:
        return str(renderer.tokenizer.decode([token for token in ids if token != -100]))

    assert text(examples.sft_example(maker, answer, 512, keep_cut=True)["labels"]) == cut["response"]
    [answer] = examples.answers(whole, "all")
    assert text(examples.sft_example(maker, answer, 512, keep_cut=False)["labels"]) == f"{whole['response']}<|im_end|>"

    rounds = [
        {"critique": "c", "revision": "Half", "flags": ["revision-cut"]},
        {"critique": "c", "revision": "All.", "flags": []},
    ]
    assert [a.cut for a in examples.answers({**whole, "rounds": rounds}, "all")] == [True, False]

    made = {"pair": [0, 1], "p_first": 0.2}
    metas = [{"finish": "length"}, {"finish": "stop"}]
    pair = {
        "prompt": "Hi",
        "responses": ["Bu", "Bye."],
        "chosen": "Bye.",
        "rejected": "Bu",
        "label": made,
        "meta": {"responses": metas},
    }
    found = examples.dpo_example(maker, pair, 512)
    assert [text(found["chosen_ids"]), text(found["rejected_ids"])] == ["Bye.<|im_end|>\n", "Bu"]


def test_only_the_chosen_answer_of_a_preference_is_trained_on() -> None:
    record = {"prompt": "Hi", "responses": ["Bad.", "Good."], "chosen": [assistant("Good.")], "rejected": [assistant("Bad.")]}
    assert [answer.text for answer in examples.answers(record, "all")] == ["Good."]


def test_tool_turns_are_skipped_with_a_reason(shared: Path) -> None:
    tools, plain = read_jsonl(shared / "cases" / "tools.jsonl")
    assert examples.sft_error(tools) is None
    with pytest.raises(Skipped, match="does not train on"):
        examples.answers(tools, "all")
    assert [answer.text for answer in examples.answers(plain, "all")] == ["Hello."]


def test_dpo_sees_the_prompt_once_in_every_form(renderer: Renderer, shared: Path) -> None:
    cases = shared / "cases"
    maker = examples.AnswerMaker(renderer, "chat", examples.turn_end(renderer, "chat"))
    plain = examples.dpo_example(maker, {"prompt": "What is 2+2?", "chosen": "Four.", "rejected": "Five."}, 512)
    for name in ("whole-conversations", "no-prompt"):
        [record] = read_jsonl(cases / f"{name}.jsonl")
        assert examples.dpo_example(maker, record, 512) == plain
        assert (
            examples.preference_example(renderer, "chat", record, 512)["chosen_ids"] == plain["prompt_ids"] + plain["chosen_ids"]
        )
    [record] = read_jsonl(cases / "several-messages-a-side.jsonl")
    for format in ("chat", "hh"):
        maker = examples.AnswerMaker(renderer, format, examples.turn_end(renderer, format))
        found = examples.dpo_example(maker, record, 512)
        text = str(renderer.tokenizer.decode(found["chosen_ids"]))
        assert all(message["content"] in text for message in record["chosen"])
    [record] = read_jsonl(cases / "same-answers.jsonl")
    with pytest.raises(Skipped, match="both answers are the same"):
        examples.dpo_example(maker, record, 512)
