"""`cai trace`: back to the prompt's file and line, through rounds, labels and mixes; what differs is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Here
from tests.rows import asks, read_jsonl, write_jsonl
from tests.tiny import EXACT


@pytest.fixture
def run(here: Here, tiny: str, tmp_path: Path) -> Path:
    """Two rounds, and labels of pairs, mixed with other preferences."""
    prompts = write_jsonl(tmp_path / "prompts.jsonl", asks(4))
    model = ("-m", tiny, *EXACT)
    here("sample", prompts, *model, "-o", tmp_path / "responses.jsonl")
    last = tmp_path / "responses.jsonl"
    for number in (1, 2):
        here("critique", last, *model, "-o", tmp_path / f"critiques-{number}.jsonl")
        last = tmp_path / f"revisions-{number}.jsonl"
        here("revise", tmp_path / f"critiques-{number}.jsonl", *model, "-o", last)
    here("sample", prompts, *model, "-n", 2, "-o", tmp_path / "pairs.jsonl")
    here("label", tmp_path / "pairs.jsonl", *model, "--principles-per-pair", 2, "-o", tmp_path / "labels.jsonl")
    other = write_jsonl(tmp_path / "other.jsonl", [{**row, "id": row["id"]} for row in read_jsonl(tmp_path / "labels.jsonl")])
    here("mix", tmp_path / "labels.jsonl", other, "-o", tmp_path / "mixed.jsonl")
    return tmp_path


def places(text: str) -> list[str]:
    return [line.split("  ")[0].rpartition("/")[2] for line in text.splitlines() if not line.startswith(" ")]


def test_a_record_is_followed_to_its_prompt_and_everything_is_drawn_again(here: Here, tiny: str, run: Path) -> None:
    out = here("trace", run / "revisions-2.jsonl", "q2", "--verify").out
    files = ["revisions-2", "critiques-2", "revisions-1", "critiques-1", "responses", "prompts"]
    assert places(out) == [f"{name}.jsonl:3" for name in files]
    assert "DIFFERENT" not in out
    assert out.count("the same: the principle of round") == 2
    assert out.count("the same: the seed of the ") == 4
    assert "the same: the seed of answer 1" in out
    assert out.count("the same: the hash of its input") == 5
    assert "round 2: principle" in out
    here("revise", run / "responses.jsonl", "-m", tiny, *EXACT, "--from-response", "--rounds", 2, "-o", run / "rounds.jsonl")
    whole = here("trace", run / "rounds.jsonl", "q2", "--verify").out  # both rounds in one step
    assert "DIFFERENT" not in whole
    assert whole.count("the same: the principle of round") == 2
    assert whole.count("the same: the seed of the ") == 4
    label = here("trace", run / "mixed.jsonl", "labels:q1/0-1", "--verify").out
    assert [name.partition(":")[0] for name in places(label)] == ["mixed.jsonl", "labels.jsonl", "pairs.jsonl", "prompts.jsonl"]
    assert "the same: the principles of the label" in label
    assert "the same: the seed of answer 2" in label


def test_what_was_changed_is_found(here: Here, run: Path) -> None:
    rows = read_jsonl(run / "critiques-1.jsonl")
    principle = next(i for i in ("ethics", "toxicity") if i != rows[0]["rounds"][0]["principle"])
    rows[0]["rounds"][0]["principle"] = principle
    write_jsonl(run / "critiques-1.jsonl", rows)
    done = here("trace", run / "critiques-1.jsonl", "q0", "--verify", code=1)
    assert "DIFFERENT: the principle of round 1" in done.out
    assert "DIFFERENT: the hash of" in done.out
    assert "2 of 7 differ" in done.err
    (run / "prompts.jsonl").unlink()
    assert "no input of" in here("trace", run / "responses.jsonl", "q0").err
    assert "has no record 'q9'" in here("trace", run / "responses.jsonl", "q9", code=2).err
    assert json.loads(Path(f"{run / 'responses.jsonl'}.manifest.json").read_text())["step"] == "sample"


def test_a_file_that_is_its_own_ancestor_ends_the_trace(here: Here, tmp_path: Path) -> None:
    """As after `cai mix a.jsonl b.jsonl -o c.jsonl; mv c.jsonl a.jsonl`, each with its manifest."""
    for name, made_from in (("a", "b"), ("b", "a")):
        write_jsonl(tmp_path / f"{name}.jsonl", asks(2))
        made = {"step": "mix", "command": ["cai", "mix"], "inputs": [{"path": f"{made_from}.jsonl"}]}
        (tmp_path / f"{name}.jsonl.manifest.json").write_text(json.dumps(made))
    assert "b.jsonl: its manifest says that it was made from" in here("trace", tmp_path / "a.jsonl", "q1", code=1).err
