"""Record kinds and ids: what must be there, and what stays the same from run to run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from cai_cli.commands import show, stats
from cai_cli.data import records
from cai_cli.data.ids import Ids, read_with_ids
from cai_cli.data.jsonl import Record
from tests.tiny import ROOT

ASK: Record = {"id": "a", "prompt": "Hello?"}
OPEN: Record = {**ASK, "response": "Hi.", "rounds": [{"principle": "p", "critique": "c"}]}
CLOSED: Record = {**ASK, "response": "Hi.", "rounds": [{"principle": "p", "critique": "c", "revision": "r"}]}


MADE = {"seed": 1, "finish": "stop", "prompt_tokens": 3, "completion_tokens": 2, "stripped": ["role"]}
LABEL = {
    "pair": [0, 1], "principles": ["p"], "p_first": 0.4, "orders": {"ab": 0.3, "ba": 0.5}, "by_principle": {"p": 0.4}, "spread": 0.0,
    "mass": 0.9, "reasoning": [{"principle": "p", "order": "ab", "text": "x", "p_first": 0.3, "meta": MADE}], "cut": 1, "identical": False,
}  # fmt: skip
FULL: Record = {
    **ASK, "response": "Hi.", "reasoning": {"chosen": "So", "rejected": None}, "responses": ["Hi.", "Ho."],
    "meta": {"response": MADE, "responses": [MADE, None]},
    "rounds": [{"principle": "p", "critique": "c", "revision": "r", "flags": ["f"], "reasoning": {"critique": "So"}, "meta": {"critique": MADE}}],
    "chosen": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}], "rejected": [{"role": "assistant", "content": "Ho."}],
    "p_chosen": 0.6, "label": LABEL, "scores": {"response": 0.1, "responses": [0.1, 0.2], "rounds": [0.3], "chosen": 1, "rejected": 0.5},
}  # fmt: skip


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path to every part of a value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in parts for found in places(part, (*path, key)))]


@pytest.mark.parametrize("other", [None, "why", 7, 0.5, True, [], ["x"], [3], {}, {"text": 3}], ids=str)
def test_a_part_of_another_type_is_refused_or_can_be_shown_and_counted(other: object) -> None:
    for place in places(FULL)[1:]:
        record = json.loads(json.dumps(FULL))
        parent: Any = record
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = other
        records.take_in(record)
        if records.shape_error(record) is None:
            show.parts(record, {})
            counted = stats.collect([record])
            stats.lengths(counted)
            counted.labels.summary()


def test_a_label_edited_by_hand_is_refused_by_the_name_of_its_field() -> None:
    def error(**changed: object) -> str | None:
        return records.shape_error({**FULL, "label": {**LABEL, **changed}})

    assert error() is None
    assert error(mass=None) == "'label.mass' must be a number, found NoneType"
    assert error(reasoning="why") == "'label.reasoning' must be a list, found str"
    assert error(reasoning=[{"text": "x"}]) == "'label.reasoning[0]' has no 'principle'"
    assert error(orders={"ab": True}) == "'label.orders.ab' must be a number, found bool"
    assert records.shape_error({**FULL, "label": {"p_first": "another tool's"}}) is None


@pytest.mark.parametrize(
    ("check", "record", "error"),
    [
        (records.prompt_error, {}, "no 'prompt' field"),
        (records.prompt_error, {"prompt": " "}, "'prompt' is empty"),
        (records.prompt_error, {"prompt": 3}, "'prompt' must be a non-empty list of {role, content} messages (or a string)"),
        (records.prompt_error, {"prompt": [{"role": "human", "content": "x"}]}, "'prompt[0].role' must be one of system, user, assistant (or a string)"),
        (records.prompt_error, {"prompt": [{"role": "assistant", "content": "x"}]}, "'prompt' must end with a user's message"),
        (records.critique_input_error, ASK, "no 'response' field: make one with `cai sample`"),
        (records.critique_input_error, OPEN, "the last round has no revision yet: run `cai revise` first"),
        (records.critique_input_error, CLOSED, None),
        (records.revise_input_error, CLOSED, "no open round: run `cai critique` first"),
        (records.revise_input_error, OPEN, None),
        (records.pair_error, ASK, "no 'responses' field: make pairs with `cai sample -n 2`"),
        (records.pair_error, {**ASK, "responses": ["x"]}, "'responses' must be a list of at least two strings"),
        (records.pair_error, {**ASK, "responses": ["x", 3]}, "'responses[1]' must be a string, found int"),
        (records.preference_error, ASK, "no 'chosen' field: make preferences with `cai label`"),
        (records.preference_error, {"chosen": "a", "rejected": "b", "p_chosen": 2}, "'p_chosen' must be a number from 0 to 1"),
        (records.preference_error, {"chosen": "a", "rejected": "b"}, None),
    ],
)  # fmt: skip
def test_a_check_names_what_a_record_lacks(check: Callable[[Record], str | None], record: Record, error: str | None) -> None:
    assert check(record) == error


def test_the_last_revision_is_criticised_not_the_response() -> None:
    assert records.current_answer(ASK | {"response": "Hi."}) == "Hi."
    assert records.current_answer(CLOSED) == "r"
    assert records.current_answer({**CLOSED, "rounds": [*CLOSED["rounds"], {"critique": "c2"}]}) == "r"


def test_missing_ids_come_from_the_prompt_and_duplicates_are_refused() -> None:
    def run(*rows: Record) -> list[str]:
        ids = Ids()
        return [ids.error(row, n) or row["id"] for n, row in enumerate(rows, 1)]

    first = run({"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"})
    assert first == run({"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"})
    assert first[2] == f"{first[0]}-2"
    assert len(set(first)) == 3
    assert run({"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"})[1] == "duplicate id 'a'; first seen on line 1"
    assert run({"id": 7, "prompt": "x"}) == ["7"]
    assert run({"id": True, "prompt": "x"}) == ["'id' must be a non-empty string"]


@pytest.mark.parametrize(
    ("name", "kind"), [("red-team", "red-team"), ("helpful-prompts", "helpful"), ("helpful-comparisons", "helpful")]
)
def test_the_example_files_are_sound(name: str, kind: str) -> None:
    rows = list(read_with_ids(str(ROOT / f"examples/{name}.jsonl")))
    assert len(rows) >= 64
    check = records.preference_error if name == "helpful-comparisons" else records.prompt_error
    assert [check(row) for row in rows] == [None] * len(rows)
    assert {row.get("kind") for row in rows} == {kind}


@pytest.mark.parametrize("other", [True, 7, "x", [], [True], {"response": 5}])
def test_a_meta_in_another_shape_says_nothing(other: object) -> None:
    """Other tools write other things under the name. No answer may be lost with them."""
    record = {"id": "a", "prompt": "q", "responses": ["x", "y"], "meta": {"responses": other}}
    assert records.truncated(record) == [False, False]
    records.require_answered(record)
    records.require_answered({**record, "meta": other, "rounds": [{"principle": "p", "meta": other}]})
    assert records.stripped(cast(Any, {"meta": other}), "critique") == []
