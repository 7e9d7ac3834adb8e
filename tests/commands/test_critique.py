"""`cai critique`: which principles it draws from."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl
from tests.tiny import EXACT


def test_commands_draw_from_the_named_principles(here: Here, tiny: str, tmp_path: Path) -> None:
    rows = [{"id": f"q{i}", "prompt": "Hello?", "response": "Hi."} for i in range(12)]
    source, out = write_jsonl(tmp_path / "r.jsonl", rows), tmp_path / "out.jsonl"
    here("critique", source, "-m", tiny, *EXACT, "--few-shot", 0, "--principles", "honesty,wisdom", "-o", out)
    assert {row["rounds"][0]["principle"] for row in read_jsonl(out)} == {"honesty", "wisdom"}
    here("critique", source, "-m", tiny, *EXACT, "-c", "seafarer", "-o", out)
    assert {row["rounds"][0]["principle"] for row in read_jsonl(out)} == {"captains-voice"}
    made = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["constitution"]
    assert (made["name"], made["principles"]) == ("seafarer", ["captains-voice"])
    assert "no tag 'nonesuch'" in here("critique", source, "-m", tiny, "--tags", "nonesuch", code=2).err
