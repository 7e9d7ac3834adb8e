"""AI feedback: the feedback model's question as the paper has it."""

from __future__ import annotations

import json
from pathlib import Path

from cai_cli import constitution, prompts, transcripts


def test_the_papers_438_comparisons_are_built_exactly(shared: Path) -> None:
    """From `text_correct` and `text_incorrect` alone, each `prompt` of the file, character for character."""
    principle = constitution.load(str(shared / "data/paper/RLMadisonInstructions.json")).principles[1]
    rows = [json.loads(line) for line in (shared / "data/paper/438HHHEvaluations.jsonl").open()]
    for row in rows:
        talk, _, good = row["text_correct"].rpartition("\n\nAssistant:")
        bad = row["text_incorrect"].rpartition("\n\nAssistant:")[2]
        first, second = (good, bad) if row["corrects"] == [" (A)"] else (bad, good)
        got = prompts.comparison(transcripts.messages(talk, exact=True), first.strip(), second.strip(), principle, "hh")
        assert got.text == f"{row['prompt']} ("
    assert len(rows) == 438
