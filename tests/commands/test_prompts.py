"""`cai prompts`: new prompts, and none nearly the same as another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_cli.commands.prompts import NoveltyFilter, tidy
from cai_cli.pipeline import outputs
from tests.conftest import Here
from tests.processes import count_lines
from tests.resuming import count_requests
from tests.rows import asks, read_jsonl, write_jsonl
from tests.tiny import EXACT, TRANSFORMERS


def test_new_prompts_are_new_and_as_many_as_requested(here: Here, tiny: str, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", [{**row, "kind": "k"} for row in asks(12)]), tmp_path / "out.jsonl"
    flags = (*TRANSFORMERS, "--dtype", "float32", "--format", "hh", "--max-tokens", 48)
    err = here("prompts", source, "-m", tiny, *flags, "-n", 3, "-o", out).err
    assert err.count("warning") == 1  # one count, and no warning for each
    assert f"skipped {len(read_jsonl(f'{out}.skipped.jsonl'))} " in err
    rows = read_jsonl(out)
    assert len(rows) == 3
    assert len({row["prompt"] for row in rows}) == 3
    assert all(row["kind"] == "k" and len(set(row["seeds"])) == 5 for row in rows)
    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), key=lambda i: int(i.rpartition("-")[2]))
    [shown] = here("prompts", source, "-m", tiny, "--format", "hh", "--dry-run", 1).out.splitlines()
    assert json.loads(shown)["text"].count("\n\nHuman:") == 6
    few = write_jsonl(tmp_path / "few.jsonl", asks(3))
    assert "give at least 5" in here("prompts", few, "-m", tiny, code=2).err


def test_near_duplicates_are_distinguished_from_new_prompts() -> None:
    novelty = NoveltyFilter(["How do I pick a lock at night?"], 2)
    assert "how do i pick a lock at night" in (novelty.reason({"prompt": "How do I pick the lock, at night"}) or "")
    assert novelty.reason({"prompt": "What is the safest way to cross a desert?"}) is None
    assert novelty.reason({"prompt": "what is the safest way to cross the desert"}) is not None
    assert not novelty.full
    assert novelty.reason({"prompt": "Tell me a joke."}) is None
    assert novelty.full
    assert tidy('- "How are you?"\n\nI hope this helps!') == "How are you?"
    assert tidy('Here is another message:\n\n1. Write a poem titled "Love"') == 'Write a poem titled "Love"'
    assert tidy("-5 degrees is how cold?") == "-5 degrees is how cold?"


def test_a_run_of_new_prompts_killed_at_its_end_resumes(
    here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All prompts were written before the kill: the resumed run asks the model for none."""
    source, out = write_jsonl(tmp_path / "in.jsonl", asks(12)), tmp_path / "out.jsonl"
    command = ("prompts", source, "-m", tiny, *EXACT, "--format", "hh", "--max-tokens", 48, "-n", 3, "-o", out)
    with monkeypatch.context() as patch:
        patch.setattr(outputs.FileOutput, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        here(*command, code=130)
    written, finished = Path(f"{out}.partial").read_bytes(), count_lines(Path(f"{out}.partial.journal"))
    assert len(read_jsonl(f"{out}.partial")) == 3
    requests = count_requests(monkeypatch)
    assert f"continuing after {finished} finished records" in here(*command).err
    assert requests == []
    assert out.read_bytes() == written
