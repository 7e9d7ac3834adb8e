"""The answers that are kept on disk: exact, found only for the same request of the same model, bounded, never in the way."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from cai_cli.engines import answers
from cai_cli.engines.answers import Answers
from cai_cli.engines.base import Choice, Completion, Request, Result, Score

CHOOSE = Request("choose", [1, 2, 3], "Which?", options={"A": 7, "B": 9})
GENERATE = Request("generate", [1, 2, 3], "Why?", seed=5, max_tokens=8, temperature=0.7, top_p=0.9, stop=("\n",))
MODEL = {"model": "a" * 64, "dtype": "float32", "deterministic": False}


def reopened(decides: object = MODEL) -> Answers:
    """What another run has."""
    return Answers(decides)


@pytest.mark.parametrize(
    ("request_", "result"),
    [
        (CHOOSE, Choice({"A": math.nextafter(-0.1, 0), "B": -1e-300}, 3)),
        (CHOOSE, Choice({"A": -math.inf, "B": -0.0}, 3)),
        (Request("score", [4, 5], ""), Score(1 / 3, 2)),
        (GENERATE, Completion('It "is" \ud83d\0 é\n', "length", 5, 3, 2, tokens=(8, 11))),
    ],
)
def test_a_kept_answer_is_the_one_that_was_computed(kept_answers: Path, request_: Request, result: Result) -> None:
    first = reopened()
    assert first.get(request_) is None
    first.put(request_, result)
    assert first.get(request_) == replace(result, reused_tokens=len(request_.ids))  # also before it is written
    first.close()
    assert repr(reopened().get(request_)) == repr(replace(result, reused_tokens=len(request_.ids)))


OTHERS = [
    replace(CHOOSE, ids=[1, 2, 4]),
    replace(CHOOSE, ids=[1, 2]),
    replace(CHOOSE, options={"B": 9, "A": 7}),
    replace(CHOOSE, options={"A": 7, "B": 8}),
    replace(CHOOSE, shared=2),  # a prefix that is computed alone rounds in another way
    replace(CHOOSE, kind="score"),
    replace(CHOOSE, answer=1),
]
SAMPLED = [{"seed": 6}, {"max_tokens": 9}, {"temperature": 0.8}, {"top_p": 1.0}, {"stop": ()}]


def test_an_answer_is_found_only_for_its_own_request_and_model(kept_answers: Path) -> None:
    first = reopened()
    first.put(CHOOSE, Choice({"A": -1.0, "B": -2.0}, 3))
    first.put(GENERATE, Completion("Because.", "stop", 5, 3, 1, tokens=(8,)))
    first.close()
    again = reopened()
    assert again.get(replace(CHOOSE, text="shown in another way")) is not None  # the model reads the tokens
    assert [again.get(other) for other in OTHERS] == [None] * len(OTHERS)
    assert [again.get(replace(GENERATE, **other)) for other in SAMPLED] == [None] * len(SAMPLED)  # type: ignore[arg-type]
    for other in ({"model": "b" * 64}, {"dtype": "bfloat16"}, {"deterministic": True}):
        assert reopened(MODEL | other).get(CHOOSE) is None
    assert Answers(None).get(CHOOSE) is None


def test_the_oldest_answers_go_first(kept_answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LARGEST", 300_000)
    kept = reopened()
    for i in range(5000):
        kept.put(replace(CHOOSE, ids=[i]), Choice({"A": -1.0, "B": -2.0}, 1))
    kept.close()
    again = reopened()
    found = [again.get(replace(CHOOSE, ids=[i])) is not None for i in range(5000)]
    assert found[-500:] == [True] * 500
    assert found[:500] == [False] * 500
    assert found == sorted(found)
    assert kept_answers.stat().st_size < 500_000


def spoil(path: Path, how: str) -> None:
    """Make a file of answers useless."""
    if how == "not a database":
        path.write_bytes(b"no database, but as long as one " * 1000)
    elif how == "torn":
        path.write_bytes(path.read_bytes()[:6000])
    elif how == "of another kind":
        path.unlink()
        sqlite3.connect(path).execute("CREATE TABLE answers (something)")
    elif how == "with other values":
        with sqlite3.connect(path) as other:
            other.execute("UPDATE answers SET value = '{'")
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["not a database", "torn", "of another kind", "with other values", "a folder"])
def test_a_useless_file_is_a_warning(kept_answers: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept = reopened()
    for i in range(200):
        kept.put(replace(CHOOSE, ids=[i]), Choice({"A": -1.0, "B": -2.0}, 1))
    kept.close()
    assert capsys.readouterr().err == ""
    spoil(kept_answers, how)
    again = reopened()
    for i in range(200):
        assert again.get(replace(CHOOSE, ids=[i])) is None
        again.put(replace(CHOOSE, ids=[i]), Choice({"A": -1.0, "B": -2.0}, 1))
    again.close()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"cai: warning: {kept_answers}: could not be used (" in said


def test_a_full_disk_or_no_folder_is_a_warning(
    kept_answers: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = reopened()
    assert kept.db is not None
    kept.db.execute("PRAGMA max_page_count = 4")
    for i in range(1000):
        kept.put(replace(CHOOSE, ids=[i]), Choice({"A": -1.0, "B": -2.0}, 1))
    kept.close()
    assert capsys.readouterr().err.count("could not be used (database or disk is full)") == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert reopened().get(CHOOSE) is None
    assert "/dev/null/cai/answers.sqlite: could not be used" in capsys.readouterr().err


def test_a_variable_leaves_the_file_alone(kept_answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_NO_CACHE", "1")
    kept = reopened()
    kept.put(CHOOSE, Choice({"A": -1.0, "B": -2.0}, 3))
    kept.close()
    assert not kept_answers.exists()
    monkeypatch.setenv("CAI_NO_CACHE", "0")
    reopened().close()
    assert kept_answers.exists()
