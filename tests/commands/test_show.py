"""`cai show`: which records, and how their texts are printed."""

from __future__ import annotations

import random
import re
from pathlib import Path

from cai_cli.commands.show import word_diff
from tests.conftest import Here
from tests.rows import flagged, write_jsonl


def test_show_prints_texts_and_spells_out_control_characters(here: Here, tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "Hello [bold]?", "response": "\x1b[31mred\x07", "scores": {"response": 1.5},
           "rounds": [{"principle": "kind", "critique": "Bad.", "revision": "Better."}]}  # fmt: skip
    path = write_jsonl(tmp_path / "x.jsonl", [row, {"id": "b", "prompt": "Other?"}])
    out = here("show", path, "--id", "a").out
    assert "\x1b" not in out
    for part in (
        "Hello [bold]?",
        "\\x1b[31mred\\x07",
        "response (score 1.50)",
        "critique 1, by kind",
        "Bad.",
        "revision 1",
        "Better.",
    ):
        assert part in out
    assert "Other?" not in out
    assert "Other?" in here("show", path).out
    assert "no record has the id 'z'" in here("show", path, "--id", "z", code=2).err


def test_show_selects_records(here: Here, tmp_path: Path) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl", [*flagged(), *({"id": f"r{i}", "prompt": "x", "response": str(i)} for i in range(20))]
    )

    def ids(*options: object) -> list[str]:
        return [line.split()[0] for line in here("show", source, *options).out.splitlines() if "──" in line]

    assert ids("--flagged") == ids("--principle", "wisdom") == ids("--grep", "secon.\\.") == ["a"]
    assert ids("--grep", "^me") == ["b"]
    assert len(ids("--random", 5)) == 5
    assert ids("--random", 5) == ids("--random", 5) != ids("--random", 5, "--seed", 1)
    assert ids("--limit", 2) == ["a", "b"]
    assert "revision 1 [unchanged]" in here("show", source, "--id", "a").out
    assert "not a regular expression" in here("show", source, "--grep", "(", code=2).err
    assert "no record matches" in here("show", source, "--grep", "zzz").err
    partly = {
        "id": "p",
        "prompt": "x",
        "response": "y",
        "rounds": flagged()[0]["rounds"],
        "scores": {"response": 1, "rounds": [2]},
    }
    assert "revision 1 (score 2.00)" in here("show", write_jsonl(tmp_path / "part.jsonl", [partly])).out
    assert "Me." in here("show", write_jsonl(tmp_path / "m.jsonl", [{"messages": [{"role": "assistant", "content": "Me."}]}])).out


def test_the_difference_of_two_texts_holds_both() -> None:
    draw = random.Random(0)
    for _ in range(40):
        old = draw.choices(["a", "bb", "c", "dd"], k=12)
        new = [word for word in old if draw.random() < 0.9] + draw.choices(["e", "f"], k=2)
        shown = word_diff(" ".join(old), " ".join(new)).plain
        assert re.sub(r"\{\+|\+\}", "", re.sub(r"\[-.*?-\]", "", shown)) == " ".join(new)
        assert re.sub(r"\[-|-\]", "", re.sub(r"\{\+.*?\+\}", "", shown)) == " ".join(old)
    assert word_diff("one two three", "all of this is new").plain == "all of this is new"
