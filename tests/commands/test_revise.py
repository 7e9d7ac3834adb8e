"""`cai revise`: direct revisions, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from cai_cli.method import constitution
from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl
from tests.tiny import EXACT


def test_direct_revisions_have_no_critique(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    responses, out = tmp_path / "r.jsonl", tmp_path / "out.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-o", responses)
    here("revise", responses, "-m", tiny, *EXACT, "--direct", "--rounds", 2, "--few-shot", 1, "-o", out)
    shapes = [[set(r) for r in row["rounds"]] for row in read_jsonl(out)]
    assert shapes == [[{"principle", "revision", "flags", "meta"}] * 2] * 12
    [shown] = here(
        "revise", responses, "-m", tiny, "--direct", "--few-shot", 0, "--format", "hh", "--dry-run", 1
    ).out.splitlines()
    assert "Critique" not in json.loads(shown)["text"]
    assert "--rounds needs --from-response" in here("revise", responses, "-m", tiny, "--rounds", 2, code=2).err
    assert "give one of the two" in here("revise", responses, "-m", tiny, "--direct", "--from-response", code=2).err
    assert "--retry with --temperature 0" in here("revise", responses, "-m", tiny, "--retry", 1, "--temperature", 0, code=2).err


def test_a_revision_is_asked_by_the_principle_of_its_critique(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    responses, critiques = tmp_path / "r.jsonl", tmp_path / "c.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-o", responses)
    here("critique", responses, "-m", tiny, *EXACT, "--few-shot", 0, "-o", critiques)
    found = constitution.load(constitution.DEFAULT)
    shown = here("revise", critiques, "-m", tiny, "--few-shot", 0, "--dry-run", 12).out.splitlines()
    for row, request in zip(read_jsonl(critiques), shown, strict=True):
        assert found.get(row["rounds"][0]["principle"]).revision in json.loads(request)["text"]


def test_a_command_names_the_text_that_a_principle_lacks(here: Here, tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x\nprinciples:\n- {id: a, critique: Say so.}\n")

    def opened(principle: str) -> str:
        rounds = [{"principle": principle, "critique": "c"}]
        return write_jsonl(tmp_path / "r.jsonl", [{"id": "q", "prompt": "Hello?", "response": "Hi.", "rounds": rounds}])

    err = here("revise", opened("a"), "-m", tiny, "-c", path, code=2).err
    assert "'a'" in err
    assert "revision" in err
    assert "has no principle 'b'" in here("revise", opened("b"), "-m", tiny, code=2).err
