"""The library: a call gives what the command of its name writes, and keeps its model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import cai_cli
from cai_cli import library
from cai_cli.errors import InputError
from tests.conftest import Here
from tests.rows import asks, read_jsonl, write_jsonl

TINY: dict[str, Any] = {"few_shot": 0, "dtype": "float32", "max_tokens": 6}


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    """No test finds a model that another one has loaded."""
    library.release()
    yield
    library.release()


def test_a_chain_gives_the_records_of_the_commands(here: Here, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    """From prompts to preferences, with the model loaded once."""
    plain: dict[str, Any] = {"dtype": "float32", "max_tokens": 6, "seed": 3}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("sample", plain | {"n": 1}),
        ("critique", plain | {"few_shot": 0}),
        ("revise", plain | {"few_shot": 0}),
        ("grade", {"dtype": "float32", "rubric": ["hhh", "refusal"]}),
    ]
    rows: list[Any] = asks(4)
    path = write_jsonl(tmp_path / "in.jsonl", rows)
    for name, flags in calls:
        rows = getattr(cai_cli, name)(rows, tiny, **flags)
        assert len(library._engines) == 1
        out = tmp_path / f"{name}.jsonl"
        here(name, path, "-m", tiny, *library._arguments(flags), "-o", out)
        assert rows == read_jsonl(out)
        path = str(out)
    scored = cai_cli.score(rows, tiny_pm)
    here("score", path, "-m", tiny_pm, "-o", tmp_path / "scored.jsonl")
    assert scored == read_jsonl(tmp_path / "scored.jsonl")
    assert len(library._engines) == 2
    pairs = cai_cli.sample(asks(4), tiny, n=2, **plain)
    labels = cai_cli.label(pairs, tiny, few_shot=0, seed=3, principles=["ethics", "social-bias"])
    source = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    asked = ("--few-shot", 0, "--seed", 3, "--principles", "ethics,social-bias")
    here("label", source, "-m", tiny, *asked, "-o", tmp_path / "labels.jsonl")
    assert labels == read_jsonl(tmp_path / "labels.jsonl")


def test_the_input_is_left_as_it_was(tiny: str) -> None:
    rows: list[Any] = [
        {"id": "a", "prompt": [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}]},
        {"prompt": "You?"},
    ]
    before = repr(rows)
    made = cai_cli.sample(rows, tiny, max_tokens=4)
    assert repr(rows) == before
    assert made[0]["prompt"][0]["content"] == "Hello?"
    assert made[1]["id"]


def test_whole_rounds_and_texts_alone(tiny: str) -> None:
    answers = cai_cli.sample(["Hello?", "Why?"], tiny, max_tokens=4)
    assert [row["prompt"] for row in answers] == ["Hello?", "Why?"]
    assert [len(row["rounds"]) for row in cai_cli.revise(answers, tiny, rounds=2, **TINY)] == [2, 2]
    assert "critique" not in cai_cli.revise(answers, tiny, rounds=1, direct=True, **TINY)[0]["rounds"][0]


def test_a_record_that_gives_nothing_is_named(tiny: str) -> None:
    made = cai_cli.sample(["Hello?", "word " * 9000], tiny, max_tokens=4)
    assert len(made) == 1
    assert [entry["record"]["prompt"][:5] for entry in made.skipped] == ["word "]
    assert "exceed the model's context" in made.skipped[0]["error"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: cai_cli.sample([{"prompt": 3}], m), "record 1: "),
        (lambda m: cai_cli.sample([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], m), "record 2: duplicate id"),
        (lambda m: cai_cli.sample(["Hello?"], m, max_token=3), "Did you mean --max-tokens"),  # type: ignore[call-arg]
        (lambda m: cai_cli.sample(["Hello?"], m, max_tokens=0), "max-tokens"),
        (lambda m: cai_cli.sample(["Hello?"], m, output="x.jsonl"), "output is a flag about files"),  # type: ignore[call-arg]
        (lambda m: cai_cli.sample(["Hello?"], m, o="x.jsonl"), "o is a flag about files"),  # type: ignore[call-arg]
        (lambda m: cai_cli.sample("Hello?", m), "give a list of records"),
        (lambda m: cai_cli.label(cast(Any, ["Hello?"]), m), "give a list of records"),
        (lambda m: cai_cli.label([{"prompt": "Hello?"}], m), "responses"),
        (lambda m: cai_cli.critique([{"prompt": "a", "response": "b"}], m, constitution="nowhere.yaml"), "nowhere.yaml"),
        (lambda m: cai_cli.grade([{"prompt": "a", "response": "b"}], f"{m}-not"), "-not"),
        (lambda m: cai_cli.score([{"prompt": "a", "response": "b"}], m), "not a preference model"),
    ],
)
def test_what_is_wrong_is_raised(call: Any, says: str, tiny: str) -> None:
    with pytest.raises(InputError, match=says):
        call(tiny)


def test_the_import_is_light() -> None:
    heavy = "import sys; from cai_cli import sample, label; print({'torch', 'transformers', 'typer'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", heavy], check=True, capture_output=True, text=True).stdout == "set()\n"
    with pytest.raises(AttributeError, match="no attribute 'samples'"):
        _ = cai_cli.samples
