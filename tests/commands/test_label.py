"""`cai label`: which pairs are labelled, identical answers, resuming."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Here
from tests.processes import count_lines
from tests.resuming import count_requests, interrupt_after
from tests.rows import pair, read_jsonl, write_jsonl
from tests.tiny import EXACT, TRANSFORMERS


def test_labels_are_kept_per_order_and_identical_answers_are_marked(here: Here, tiny: str, tmp_path: Path) -> None:
    pairs = write_jsonl(
        tmp_path / "pairs.jsonl",
        [{"id": "a", "prompt": "Hello?", "responses": ["one", "two"]}, {"id": "b", "prompt": "Hello?", "responses": ["same", "same"]},
         {"id": "c", "prompt": "Hello?", "responses": ["two", "one"]}],
    )  # fmt: skip
    out = tmp_path / "out.jsonl"
    here("label", pairs, "-m", tiny, *EXACT, "-c", "single", "--few-shot", 0, "-o", out)
    a, same, c = read_jsonl(out)
    assert (same["p_chosen"], same["label"]["identical"], same["chosen"][0]["content"]) == (0.5, True, "same")
    assert a["p_chosen"] == pytest.approx(max(a["label"]["p_first"], 1 - a["label"]["p_first"]))
    assert a["label"]["principles"] == c["label"]["principles"]  # there is only one
    assert a["label"]["orders"]["ab"] == pytest.approx(1 - c["label"]["orders"]["ba"], abs=1e-6)
    assert a["label"]["orders"]["ba"] == pytest.approx(1 - c["label"]["orders"]["ab"], abs=1e-6)
    assert 0.5 <= c["p_chosen"] <= 1


def test_any_number_of_answers_and_identical_ones(here: Here, tiny: str, tmp_path: Path) -> None:
    rows = [pair(1, "a", "b", "c", "a"), pair(2, "same", "same")]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    done = here("label", source, *TRANSFORMERS, "-m", tiny, "-o", tmp_path / "all")
    got = read_jsonl(tmp_path / "all")
    assert [row["id"] for row in got] == [f"q1/{i}-{j}" for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))] + ["q2/0-1"]
    assert [row["label"].get("identical", False) for row in got] == [False, False, True, False, False, False, True]
    assert all(row["p_chosen"] == 0.5 for row in (got[2], got[6]))
    assert "2 pairs of identical answers, labelled 0.5" in done.err
    assert "in 5 of 5 labels both letters together have under 1%" in done.err  # a tiny model knows no letters
    here("label", source, *TRANSFORMERS, "-m", tiny, "--pairs", "first", "-o", tmp_path / "first")
    assert [row["id"] for row in read_jsonl(tmp_path / "first")] == ["q1/0-1", "q2/0-1"]
    here("label", source, *TRANSFORMERS, "-m", tiny, "--pairs", "random:2", "-o", tmp_path / "random")
    drawn = [row["label"]["pair"] for row in read_jsonl(tmp_path / "random")]
    assert len(drawn) == 3
    assert drawn[0] != drawn[1]
    assert "give first, all, or random:K" in here("label", source, *TRANSFORMERS, "-m", tiny, "--pairs", "random", code=2).err


def test_an_interrupted_run_with_reasoning_resumes(
    here: Here, tiny: str, pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five of twelve records are finished before the interrupt, and the model is not asked about them again."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    command = ("label", pairs, *EXACT, "-m", tiny, "--cot", "--keep-cut", "--few-shot", 0, "-o")
    with monkeypatch.context() as patch:
        requests = count_requests(patch)
        here(*command, whole)
    assert requests.count("generate") == requests.count("choose") == 2 * 12  # both orders
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        assert "holds 5 finished records" in here(*command, out, code=130).err
    assert count_lines(Path(f"{out}.partial")) == count_lines(Path(f"{out}.partial.journal")) == 5
    with monkeypatch.context() as patch:
        requests = count_requests(patch)
        assert "continuing after 5 finished records" in here(*command, out).err
    assert requests.count("generate") == requests.count("choose") == 2 * 7
    assert out.read_bytes() == whole.read_bytes()


def test_every_flag_that_changes_a_label_is_in_the_fingerprint(
    here: Here, tiny: str, pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfinished run is not continued with another value: the output would mix two kinds of labels."""
    out = tmp_path / "out.jsonl"
    command = ("label", pairs, *TRANSFORMERS, "-m", tiny, "-o", out)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        here(*command, code=130)
    for flag, name in [
        (("--principles-per-pair", 3), "principles_per_pair (1 before, 3 now)"),
        (("--orders", "ab"), "orders ("),
        (("--few-shot", 0), "few_shot (null before, 0 now)"),
        (("--clamp", "0.4,0.6"), "clamp (null before, [0.4, 0.6] now)"),
        (("--pairs", "first"), 'pairs ("all" before, "first" now)'),
        (("--principles", "ethics"), "principles ("),
        (("--seed", 1), "seed (0 before, 1 now)"),
    ]:
        assert f"changed: {name}" in here(*command, *flag, code=2).err
    assert "continuing after 2 finished records" in here(*command).err
