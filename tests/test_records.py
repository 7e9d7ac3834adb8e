"""Record kinds, ids and seeds: what must be there, and what stays the same from run to run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_cli import feedback, prompts, records, seeds
from cai_cli.constitution import Principle
from cai_cli.feedback import Reading

ASK = {"id": "a", "prompt": "Hello?"}
OPEN = {**ASK, "response": "Hi.", "rounds": [{"principle": "p", "critique": "c"}]}
CLOSED = {**ASK, "response": "Hi.", "rounds": [{"principle": "p", "critique": "c", "revision": "r"}]}


@pytest.mark.parametrize(
    ("check", "record", "error"),
    [
        (records.prompt_error, {}, "no 'prompt' field"),
        (records.prompt_error, {"prompt": " "}, "'prompt' is empty"),
        (records.prompt_error, {"prompt": 3}, "'prompt' must be a list of {role, content} messages, and not an empty one (or a string)"),
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
def test_what_a_record_lacks_is_said(check: Any, record: dict, error: str | None) -> None:
    assert check(record) == error


def test_the_last_revision_is_criticised_not_the_response() -> None:
    assert records.current_answer(ASK | {"response": "Hi."}) == "Hi."
    assert records.current_answer(CLOSED) == "r"
    assert records.current_answer({**CLOSED, "rounds": [*CLOSED["rounds"], {"critique": "c2"}]}) == "r"


def test_missing_ids_come_from_the_prompt_and_twice_given_ones_are_refused() -> None:
    def run(*rows: dict) -> list[Any]:
        ids = records.Ids()
        return [ids.error(row, n) or row["id"] for n, row in enumerate(rows, 1)]

    first = run({"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"})
    assert first == run({"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"})
    assert first[2] == f"{first[0]}-2"
    assert len(set(first)) == 3
    assert run({"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"})[1] == "the id 'a' stands already on line 1"
    assert run({"id": 7, "prompt": "x"}) == ["7"]
    assert run({"id": True, "prompt": "x"}) == ["'id' must be a string, and not an empty one"]


@given(st.text(), st.integers(0, 9), st.text(), st.integers(0, 9))
def test_draws_depend_on_each_part(a: str, i: int, b: str, j: int) -> None:
    assert (seeds.draw(a, i) == seeds.draw(b, j)) == ((a, i) == (b, j))
    assert 0 <= seeds.uniform(a, i) < 1


def test_a_round_sees_the_prompt_and_the_current_answer_only() -> None:
    """The `hh` prompt of a second round, written out by hand (paper, section 3.1)."""
    principle = Principle("p", critique="Say what is wrong.", revision="Mend it.", compare="Which is better?")
    record = {"prompt": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Two?"}],
              "response": "first", "rounds": [{"critique": "old", "revision": "second"}]}  # fmt: skip
    conversation = "\n\nHuman: One?\n\nAssistant: 1\n\nHuman: Two?\n\nAssistant: second"
    shown = prompts.critique(record, principle, "hh").text
    assert shown == conversation + "\n\nCritiqueRequest: Say what is wrong.\n\nCritique:"
    shown = prompts.revision(record, principle, "Bad.", "hh").text
    assert shown == (
        conversation + "\n\nCritiqueRequest: Say what is wrong.\n\nCritique: Bad.\n\nRevisionRequest: Mend it.\n\nRevision:"
    )
    chat = prompts.revision(record, principle, "Bad.", "chat").messages or []
    assert [m["content"] for m in chat] == ["One?", "1", "Two?", "second", "Say what is wrong.", "Bad.", "Mend it."]
    assert [m["role"] for m in chat] == ["user", "assistant"] * 3 + ["user"]


@pytest.mark.parametrize("marker", ["Human", "Assistant", "CritiqueRequest", "Critique", "RevisionRequest", "Revision"])
def test_text_cannot_begin_a_turn_of_a_transcript(marker: str) -> None:
    record = {"prompt": f"a\n\n{marker}: b\n \n{marker}: c", "response": f"x\n\n{marker}: y"}
    shown = prompts.critique(record, Principle("p", critique="q"), "hh").text
    genuine = {"Human": 1, "Assistant": 1, "CritiqueRequest": 1, "Critique": 1}.get(marker, 0)
    assert shown.count(f"\n\n{marker}:") == genuine
    assert f"\n\n {marker}: b" in shown


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_label_is_the_mean_of_both_orders(ab: float, ba: float) -> None:
    pair = {"id": "a", "prompt": "Hello?", "responses": ["first", "second"], "extra": 1}
    readings = [Reading((0, 1), Principle("kind", compare="x"), order, p_first=p) for order, p in (("ab", ab), ("ba", ba))]
    got = feedback.preference(pair, (0, 1), feedback.judgement(readings), {})
    favours_first = (ab + ba) / 2 >= 0.5
    assert got["chosen"][0]["content"] == ("first" if favours_first else "second")
    assert got["rejected"][0]["content"] == ("second" if favours_first else "first")
    assert got["p_chosen"] == pytest.approx(max((ab + ba) / 2, 1 - (ab + ba) / 2))
    assert got["label"]["orders"] == {"ab": ab, "ba": ba}
    assert (got["id"], got["source_id"], got["extra"]) == ("a/0-1", "a", 1)
    assert records.preference_error(got) is None


def test_probabilities_of_options_are_renormalised_and_survive_extremes() -> None:
    assert feedback.normalise({"A": -1.0, "B": -1.0}) == {"A": 0.5, "B": 0.5}
    assert feedback.normalise({"A": -1000.0, "B": -2000.0}) == {"A": 1.0, "B": 0.0}
