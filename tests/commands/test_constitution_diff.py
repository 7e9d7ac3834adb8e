"""`cai constitution diff`: the same results as `cai revise` and `cai label`, and only what was changed changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.conftest import Here
from tests.rows import pair, read_jsonl, write_jsonl
from tests.tiny import ROOT, TRANSFORMERS

FLAGS = (*TRANSFORMERS, "--few-shot", 0, "--max-tokens", 8)


def edited(path: Path, identity: str, **texts: str) -> Path:
    """The default constitution with other texts for one principle."""
    found = yaml.safe_load((ROOT / "constitutions/default.yaml").read_text())
    for principle in found["principles"]:
        if principle["id"] == identity:
            principle.update(texts)
    path.write_text(yaml.safe_dump(found))
    return path


def test_only_the_records_of_the_changed_principle_change(here: Here, tiny: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    rows = [{"id": f"q{i}", "prompt": f"What is {i}?", "response": f"It is {i}."} for i in range(40)]
    answers, pairs = write_jsonl(run / "responses.jsonl", rows), write_jsonl(run / "pairs.jsonl", [pair(i) for i in range(40)])
    other = edited(tmp_path / "other.yaml", "ethics", compare="Which of these is in Latin?", revision="Answer in Latin.")
    done = here("constitution", "diff", "default", other, "--run", run, "-m", tiny, *FLAGS, "-o", tmp_path / "diff.jsonl")
    here("revise", answers, "--from-response", "-m", tiny, *FLAGS, "--dtype", "float32", "-o", tmp_path / "revised.jsonl")
    here("label", pairs, "-m", tiny, *FLAGS, "-o", tmp_path / "labelled.jsonl")

    made = read_jsonl(tmp_path / "diff.jsonl")
    revised, labelled = [r for r in made if "response" in r], [r for r in made if "responses" in r]
    assert [r["a"]["revision"] for r in revised] == [r["rounds"][0]["revision"] for r in read_jsonl(tmp_path / "revised.jsonl")]
    assert [r["a"]["p_first"] for r in labelled] == pytest.approx(
        [r["label"]["p_first"] for r in read_jsonl(tmp_path / "labelled.jsonl")], abs=1e-5
    )
    moved = [r["a"] != r["b"] for r in labelled]
    assert moved == [r["a"]["principles"] == ["ethics"] for r in labelled]
    assert sum(moved) >= 1
    assert {r["a"]["principle"] for r in revised if r["a"] != r["b"]} == {"ethics"}
    assert all(r["a"]["critique"] == r["b"]["critique"] for r in revised)  # its request did not change

    assert "ethics: other revision and compare" in done.err
    assert "ethics*" in done.out
    assert "14 unchanged" in done.out  # one row of them, with 37 of the 40 labels
    assert "general-harm" not in done.out
    assert "first is better, b" in done.out


def test_what_cannot_be_compared_is_named(here: Here, tiny: str, tmp_path: Path) -> None:
    def said(*words: object) -> str:
        return here("constitution", "diff", *words, "-m", tiny, *FLAGS, code=2).err

    assert "give a folder with responses.jsonl" in said("default", "single", "--run", tmp_path)
    write_jsonl(tmp_path / "pairs.jsonl", [{"id": "a", "prompt": "Why?", "responses": ["So."]}])
    assert "pairs.jsonl:1: 'responses' must be a list of at least two strings" in said("default", "single", "--run", tmp_path)
    write_jsonl(tmp_path / "pairs.jsonl", [pair(0)])
    assert "the same principles and examples" in said("default", "default", "--run", tmp_path)
