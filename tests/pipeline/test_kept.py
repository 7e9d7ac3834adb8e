"""Judges' answers that are kept: a second run computes nothing, and gives the same bytes as without them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Done, Here
from tests.processes import start
from tests.resuming import count_requests, interrupt_after
from tests.rows import pair, revisions, write_jsonl
from tests.tiny import EXACT, TRANSFORMERS, tiny_model

SHORT = ("--max-tokens", 8, "--keep-cut")
"""Flags of reasoning that a tiny model can write."""


def counts(path: Path) -> dict[str, Any]:
    """What a run has done."""
    found: dict[str, Any] = json.loads(Path(f"{path}.manifest.json").read_text())["counts"]
    return found


def second(here: Here, tmp_path: Path, *command: object) -> tuple[Done, Done]:
    """Run a command twice, into files `one` and `two`."""
    return here(*command, "-o", tmp_path / "one"), here(*command, "-o", tmp_path / "two")


@pytest.mark.parametrize(
    ("step", "more", "calls"),
    [
        (["label"], [], 24),
        (["label"], ["--cot", *SHORT, "--cot-samples", 2], 96),  # with each letter a text
        (["grade"], [], 144),
        (["eval", "choice"], [], 24),
    ],
)
def test_a_second_run_computes_nothing(
    here: Here, tiny: str, kept_answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    step: list[str], more: list[object], calls: int,
) -> None:  # fmt: skip
    rows = [pair(i) for i in range(12)]
    if step == ["eval", "choice"]:
        rows = [
            {"id": r["id"], "prompt": r["prompt"], **dict(zip(("chosen", "rejected"), r["responses"], strict=True))} for r in rows
        ]
    command = (*step, write_jsonl(tmp_path / "in.jsonl", rows), "-m", tiny, *TRANSFORMERS, *more)
    requests = count_requests(monkeypatch)
    first, again = second(here, tmp_path, *command)
    assert len(requests) == calls
    assert "loading" in first.err
    assert "loading" not in again.err
    assert f", {calls} answers from the cache, " in again.err
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    one, two = counts(tmp_path / "one"), counts(tmp_path / "two")
    assert (one["cached_calls"], two["cached_calls"]) == (0, calls)
    assert [two[name] for name in ("records_out", "prompt_tokens", "completion_tokens")] == [
        one[name] for name in ("records_out", "prompt_tokens", "completion_tokens")
    ]
    assert two["reused_tokens"] == two["prompt_tokens"]


def test_a_comparison_asks_only_what_is_new(
    here: Here, tiny: str, kept_answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(name: str, prompts: int) -> str:
        rows = [{"id": f"q{i}", "prompt": f"What is {i}?", "response": f"{name} {i}"} for i in range(prompts)]
        return write_jsonl(tmp_path / f"{name}.jsonl", rows)

    flags = ("-m", tiny, *TRANSFORMERS, "--few-shot", 0)
    requests = count_requests(monkeypatch)
    first, again = second(here, tmp_path, "eval", "compare", answers("a", 3), answers("b", 3), *flags)
    assert len(requests) == 3 * 2 * 2
    assert again.out == first.out
    here("eval", "compare", answers("a", 5), answers("b", 5), *flags, "-o", tmp_path / "more")  # two prompts are new
    assert len(requests) == 5 * 2 * 2
    here("eval", "compare", answers("a", 5), answers("b", 5), answers("c", 5), *flags, "-o", tmp_path / "three")
    assert len(requests) == 5 * 2 * 2 + 2 * 5 * 2 * 2
    assert counts(tmp_path / "three")["cached_calls"] == 20


def test_scores_are_kept_too(here: Here, tiny_pm: str, kept_answers: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", revisions(4))
    first, again = second(here, tmp_path, "score", source, "-m", tiny_pm)
    assert ("loading" in first.err, "loading" in again.err) == (True, False)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert counts(tmp_path / "two")["cached_calls"] == 12


def test_texts_that_people_ask_for_are_not_kept(here: Here, tiny: str, prompts: str, kept_answers: Path, tmp_path: Path) -> None:
    _, again = second(here, tmp_path, "sample", prompts, "-m", tiny, *EXACT)
    assert "loading" in again.err
    assert counts(tmp_path / "two")["cached_calls"] == 0


def test_another_model_dtype_or_engine_setting_is_asked_again(
    here: Here, tiny: str, kept_answers: Path, pairs: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    flags = ("-m", model, *TRANSFORMERS, "--few-shot", 0)

    def cached(*more: object) -> int:
        here("label", pairs, *flags, *more, "-o", tmp_path / "out", "--restart")
        return int(counts(tmp_path / "out")["cached_calls"])

    assert [cached(), cached(), cached("--batch-size", 3), cached("--seed", 1, "--orders", "ab")] == [0, 24, 24, 0]
    assert [cached("--dtype", "bfloat16"), cached("--deterministic"), cached("--trust-remote-code"), cached()] == [0, 0, 0, 24]
    (model / "notes.md").write_text("nothing that a model is made of")
    assert cached() == 24
    tiny_model(model, seed=1)
    assert [cached(), cached()] == [0, 24]


def test_deterministic_output_is_the_same_with_and_without_kept_answers(
    here: Here, tiny: str, kept_answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where half of the answers are kept: batches are then others."""
    rows = [pair(i) for i in range(10)]
    half, whole = write_jsonl(tmp_path / "half.jsonl", rows[::2]), write_jsonl(tmp_path / "whole.jsonl", rows)
    flags = ("-m", tiny, *EXACT, "--cot", "--keep-cut")
    here("label", half, *flags, "-o", tmp_path / "half")
    here("label", whole, *flags, "-o", tmp_path / "kept")
    assert counts(tmp_path / "kept")["cached_calls"] == 20
    monkeypatch.setenv("CAI_NO_CACHE", "1")
    here("label", whole, *flags, "-o", tmp_path / "computed")
    assert (tmp_path / "kept").read_bytes() == (tmp_path / "computed").read_bytes()


def test_an_interrupted_run_keeps_the_answers_of_unfinished_records(
    here: Here, tiny: str, pairs: str, kept_answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = *TRANSFORMERS, "--batch-size", 24  # so that every text is written before the first letter is read
    command = ("label", pairs, "-m", tiny, *together, "--cot", "--keep-cut", "-o", tmp_path / "out")
    requests = count_requests(monkeypatch)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        here(*command, code=130)
    again = here(*command).err
    assert "continuing after 5 finished records" in again
    assert requests.count("generate") == 12 * 2
    assert counts(tmp_path / "out")["cached_calls"] >= 7 * 2
    here(*command[:-1], tmp_path / "whole")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_two_runs_at_once_share_a_file(here: Here, tiny: str, pairs: str, kept_answers: Path, tmp_path: Path) -> None:
    command = ("label", pairs, "-m", tiny, *EXACT, "--few-shot", 0)
    runs = [start(*command, "-o", tmp_path / name) for name in ("one", "two")]
    for run in runs:
        _, said = run.communicate()
        assert run.returncode == 0, said
        assert "could not be used" not in said
    assert ", 24 answers from the cache, " in here(*command, "-o", tmp_path / "three").err
    assert len({(tmp_path / name).read_bytes() for name in ("one", "two", "three")}) == 1


def test_a_file_that_cannot_be_used_is_a_warning(here: Here, tiny: str, pairs: str, kept_answers: Path, tmp_path: Path) -> None:
    command = ("label", pairs, "-m", tiny, *EXACT, "--few-shot", 0)
    second(here, tmp_path, *command)
    kept_answers.write_bytes(b"damaged" * 1000)
    assert "answers.sqlite: could not be used" in here(*command, "-o", tmp_path / "three").err
    assert (tmp_path / "three").read_bytes() == (tmp_path / "one").read_bytes()
