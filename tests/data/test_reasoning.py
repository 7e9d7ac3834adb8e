"""Reasoning is taken out of the answers of a file, whatever form they have, and what only mentions the tags stays an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_cli.data import reasoning
from cai_cli.data.reasoning import Parts
from cai_cli.data.records import require_answered, take_in
from cai_cli.errors import Skipped
from cai_cli.training import examples
from tests.rows import read_jsonl


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("<think>I must be brief.</think>\n\nHello.", Parts("Hello.", "I must be brief.")),
        ("\n<think>\n\n</think>\n\nHello.", Parts("Hello.")),
        ("I must be brief.\n</think>\n\nHello.", Parts("Hello.", "I must be brief.")),
        ("</think>\nHello.", Parts("Hello.")),
        ("<think>I must be brief, and then", Parts("", "I must be brief, and then", cut=True)),
        ("The tag <think> opens, and\n</think>\ncloses it.", Parts("The tag <think> opens, and\n</think>\ncloses it.")),
        ("Write `</think>` at the end.", Parts("Write `</think>` at the end.")),
        ("<thinking> is another word.", Parts("<thinking> is another word.")),
        (" Hello. ", Parts(" Hello. ")),
    ],
)
def test_a_text_of_a_file_is_split_only_if_it_begins_with_reasoning(text: str, want: Parts) -> None:
    assert reasoning.inline(text) == want


def test_the_published_forms_of_reasoning(shared: Path) -> None:
    closed, opened, cut, pair = read_jsonl(shared / "cases" / "reasoning.jsonl")
    for record in (closed, opened, cut, pair):
        take_in(record)
    assert closed["response"] == opened["response"] == "Hello."
    assert closed["reasoning"] == opened["reasoning"] == "I must be brief."
    assert (cut["response"], cut["reasoning"]) == ("", "I must be brief, and then")
    assert cut["meta"]["response"] == {"finish": "length", "reasoning": "cut"}
    assert pair["responses"] == ["Hello.", "Hi there."]
    assert pair["reasoning"] == ["a", "b"]
    half: dict[str, Any] = {"prompt": "hi", "responses": ["Hello.", "<think>I must"]}
    take_in(half)
    assert half["responses"] == ["Hello.", ""]
    assert half["reasoning"] == [None, "I must"]
    with pytest.raises(Skipped, match="cut by --max-tokens"):
        require_answered(half)


@pytest.mark.parametrize("key", reasoning.KEYS)
def test_sides_and_messages_keep_their_reasoning_apart(key: str) -> None:
    ask = {"role": "user", "content": "Hi <think>"}
    record: dict[str, Any] = {
        "prompt": [ask],
        "chosen": [{"role": "assistant", "content": "Yes.", key: "why"}],
        "rejected": "<think>w</think>No.",
    }
    take_in(record)
    assert record["chosen"] == [{"role": "assistant", "content": "Yes."}]
    assert record["rejected"] == "No."
    assert record["reasoning"] == {"chosen": "why", "rejected": "w"}
    assert record["prompt"] == [ask]
    assert reasoning.shown(record)["chosen"][0]["content"] == "<think>\nwhy\n</think>\n\nYes."
    messages: dict[str, Any] = {"messages": [ask, {"role": "assistant", "content": "<think>a</think>b"}]}
    take_in(messages)
    assert messages == {"messages": [ask, {"role": "assistant", "content": "b"}], "reasoning": "a"}


def test_text_parts_are_joined_and_other_parts_are_named(shared: Path) -> None:
    from cai_cli.data.records import prompt_error

    [record] = read_jsonl(shared / "cases" / "content-parts.jsonl")
    take_in(record)
    assert record["prompt"] == [{"role": "user", "content": "hi there"}]
    image = {"prompt": [{"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {}}]}]}
    take_in(image)
    assert "parts of the type image_url" in (prompt_error(image) or "")


@pytest.mark.parametrize("other", [True, 5, [], ["x"], {}, {"revision": 5}, [None, {"a": 1}]])
def test_reasoning_in_another_shape_is_left_alone(other: Any) -> None:
    """Other tools write other things under the name, and the answers must not be lost with them."""
    rounds = [{"principle": "p", "critique": "c", "revision": "r", "reasoning": other}]
    record = {
        "id": "a",
        "prompt": "q",
        "responses": ["x", "y"],
        "rounds": rounds,
        "chosen": "x",
        "rejected": "y",
        "reasoning": other,
    }
    found = reasoning.shown(record)
    assert found["rounds"] == rounds
    assert [text.rpartition("\n")[2] for text in found["responses"]] == ["x", "y"]
    assert found["rejected"] == "y"
    prompts = {key: record[key] for key in ("id", "prompt", "responses", "reasoning")}
    assert [answer.text for answer in examples.answers(prompts, "all")] == ["x", "y"]
    assert [answer.text for answer in examples.answers({"prompt": "q", "response": "x", "rounds": rounds}, "all")] == ["r"]


@pytest.mark.parametrize("meta", [{}, {"responses": None}, {"responses": {"x": 1}}, {"responses": [None]}])
def test_a_cut_answer_is_marked_whatever_another_tool_left_in_the_meta(meta: dict[str, Any]) -> None:
    record = {"id": "a", "prompt": "Hi", "responses": ["Yes.", "<think>\nno"], "meta": meta}
    reasoning.separate(record)
    assert record["responses"] == ["Yes.", ""]
    if not meta.get("responses"):
        assert record["meta"] == {"responses": [{}, {"reasoning": "cut"}]}
