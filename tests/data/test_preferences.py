"""All forms of a preference are read as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_cli.data.preferences import Sides, sides
from cai_cli.data.records import assistant, preference_error, user
from tests.rows import read_jsonl

ASK, YES, NO = user("What is 2+2?"), assistant("Four."), assistant("Five.")
WANT = Sides([ASK], [YES], [NO])


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "What is 2+2?", "chosen": "Four.", "rejected": "Five."},
        {"prompt": [ASK], "chosen": [YES], "rejected": [NO]},
        {"prompt": "What is 2+2?", "chosen": [ASK, YES], "rejected": [ASK, NO]},
        {"prompt": "What is 2+2?\n", "chosen": [{**ASK, "name": "me"}, YES], "rejected": [ASK, NO]},
        {"chosen": [ASK, YES], "rejected": [ASK, NO]},
        {"chosen": "\n\nHuman: What is 2+2?\n\nAssistant: Four.", "rejected": "\n\nHuman: What is 2+2?\n\nAssistant: Five."},
    ],
)
def test_every_form_gives_the_same_sides(record: dict[str, object]) -> None:
    assert preference_error(record) is None
    found = sides(record)
    assert [m["content"] for m in found.prompt] == [ASK["content"]]
    assert found[1:] == WANT[1:]


def test_a_repeated_prompt_may_stand_after_other_messages() -> None:
    """Some files give the last question as `prompt`, or no system message."""
    system, again = {"role": "system", "content": "Be brief."}, user("Sure?")
    for before in ([system], [ASK, NO], [system, ASK, NO]):
        record = {"prompt": "Sure?", "chosen": [*before, again, YES], "rejected": [*before, again, NO]}
        assert sides(record) == Sides([*before, again], [YES], [NO])


def test_the_published_files(shared: Path) -> None:
    cases = shared / "cases"
    assert sides(read_jsonl(cases / "whole-conversations.jsonl")[0]) == WANT
    assert sides(read_jsonl(cases / "no-prompt.jsonl")[0]) == WANT
    several = read_jsonl(cases / "several-messages-a-side.jsonl")[0]
    assert sides(several) == Sides([user(several["prompt"])], several["chosen"], several["rejected"])
    with pytest.raises(ValueError, match="several messages"):
        sides(several).answers()


def test_the_common_beginning_ends_with_a_users_message() -> None:
    """Sides that share an answer and go on differently: the shared answer is part of the prompt, or of both sides."""
    again = user("Sure?")
    shared = {"chosen": [ASK, YES, again, YES], "rejected": [ASK, YES, again, NO]}
    assert sides(shared) == Sides([ASK, YES, again], [YES], [NO])
    parting = {"chosen": [ASK, YES, again, YES], "rejected": [ASK, YES, user("Why?"), YES]}
    assert sides(parting) == Sides([ASK], [YES, again, YES], [YES, user("Why?"), YES])
    assert sides({"chosen": [ASK, YES], "rejected": [ASK, YES]}) == Sides([ASK], [YES], [YES])
    alike = {"prompt": [ASK], "chosen": [YES, again, YES], "rejected": [YES, again, NO]}
    assert sides(alike) == Sides([ASK, YES, again], [YES], [NO])
    assert sides(alike).answers() == ("Four.", "Five.")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"chosen": "Four.", "rejected": "Five."}, "plain text without a 'prompt'"),
        ({"chosen": [YES], "rejected": [NO]}, "no user message"),
        ({"prompt": [ASK], "chosen": [user("So?"), YES], "rejected": [NO]}, "'chosen' must begin with the assistant's"),
        ({"chosen": [ASK, user("So?"), YES], "rejected": [ASK, NO]}, "'chosen' must begin and end with the assistant's"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "rejected": "\n\nHuman: a\n\nAssistant: d"},
            "'chosen' must begin and end with the assistant's",
        ),
    ],
)
def test_what_has_no_sides_is_explained(record: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sides(record)
