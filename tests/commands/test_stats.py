"""`cai stats`: counts, odd records, and where a file came from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data.jsonl import Record
from tests.conftest import Here
from tests.rows import asks, flagged, preference, write_jsonl
from tests.tiny import EXACT


def test_statistics_count_records_flags_and_tokens(here: Here, tmp_path: Path) -> None:
    out = here("stats", write_jsonl(tmp_path / "in.jsonl", flagged())).out
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    assert out.startswith("2 records")
    assert lines["honesty"][1:] == ["1", "(100%)", "0", "(0%)", "1", "(50%)"]
    assert lines["revision-unchanged"][1:3] == ["1", "(100%)"]
    assert lines["revision 2"][-2:] == ["9", "100%"]
    two = [{"id": str(n), "prompt": "x", "response": "word " * n} for n in (1, 100)]
    out = here("stats", write_jsonl(tmp_path / "two.jsonl", two)).out
    assert next(line.split()[1:6] for line in out.splitlines() if line.startswith("response")) == ["2", "11", "50", "90", "100"]


def test_a_phrase_that_many_answers_begin_with_is_shown(here: Here, tmp_path: Path) -> None:
    texts = ["I understand that.", "I understand you.", *(f"No. {i} is it" for i in range(30))]
    rows = [{"id": str(i), "prompt": "x", "response": text} for i, text in enumerate(texts)]
    assert "I understand (6%)" in here("stats", write_jsonl(tmp_path / "in.jsonl", rows)).out
    more = [*rows, *({"id": f"n{i}", "prompt": "x", "response": f"It {i}"} for i in range(20))]
    assert "I understand" not in here("stats", write_jsonl(tmp_path / "more.jsonl", more)).out


ODD = [
    {"meta": None},
    {"prompt": 5},
    {"response": None},
    {"response": "x", "rounds": [{"revision": "y", "meta": None}]},
    {"response": "x", "rounds": [{"revision": "y", "flags": None}]},
    {"scores": []},
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_records_are_named_by_line(here: Here, tmp_path: Path, odd: dict[str, Any]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Hello?", "response": "Hi.", **odd}])
    for command in ("stats", "show"):
        assert f"{source}:1: '" in here(command, source, code=2).err
    if "scores" not in odd:
        assert f"{source}:1: '" in here("export", "sft", source, code=2).err


OTHERS = [
    {"meta": {"response": "human", "responses": 5}, "responses": ["a", "b"]},
    {"reasoning": {"chosen": 5}, "label": {"orders": [1], "reasoning": "why"}},
    {"rounds": [{"critique": "c", "reasoning": "why", "meta": {"critique": "human"}}]},
]


@pytest.mark.parametrize("other", OTHERS)
def test_fields_that_another_tool_fills_in_other_ways_are_left_alone(here: Here, tmp_path: Path, other: dict[str, Any]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Hello?", "response": "Hi.", **other}])
    assert here("stats", source).out.startswith("1 record\n")
    assert "Hi." in here("show", source).out


def test_statistics_show_where_a_file_came_from(here: Here, tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(3))
    here("sample", prompts, "-m", tiny, *EXACT, "-o", tmp_path / "r.jsonl")
    here("critique", tmp_path / "r.jsonl", "-m", tiny, *EXACT, "-o", tmp_path / "c.jsonl")
    tree = here("stats", tmp_path / "c.jsonl").out.split("\n\n")[-1]
    for part in ("c.jsonl  critique", "constitution default", "r.jsonl  sample", "p.jsonl  no manifest", f"{tiny}  model"):
        assert part in tree


def test_the_lineage_is_the_same_from_any_directory(
    here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "run/p.jsonl", asks(2))
    here("sample", "run/p.jsonl", "-m", tiny, *EXACT, "-o", "run/r.jsonl")
    here("critique", "run/r.jsonl", "-m", tiny, *EXACT, "-o", "run/c.jsonl")

    def tree(path: str) -> list[str]:
        return here("stats", path).out.split("\n\n")[-1].splitlines()[1:]

    expected = tree("run/c.jsonl")
    assert any("run/r.jsonl  sample" in line for line in expected)
    monkeypatch.chdir(tmp_path / "run")
    assert tree("c.jsonl") == expected
    monkeypatch.chdir("/")
    assert tree(str(tmp_path / "run/c.jsonl")) == expected


def test_truncated_texts_and_reasoning_are_counted(here: Here, tmp_path: Path) -> None:
    cut = {"finish": "length", "reasoning": "cut"}
    rows: list[Record] = [{"prompt": f"{n}", "response": "" if n < 2 else "Yes.", "reasoning": "a b c",
             "meta": {"response": cut if n < 2 else {"finish": "stop"}}} for n in range(10)]  # fmt: skip
    rows.append({"prompt": "pair", "responses": ["1", "2"], "reasoning": [None, "because"]})
    done = here("stats", write_jsonl(tmp_path / "in.jsonl", rows))
    lines = {line.split("  ")[0]: (re.findall(r"(?<!\()\b\d+%", line) or [""])[0] for line in done.out.splitlines() if line}
    assert lines["response"] == lines["response: reasoning"] == "20%"
    assert [line.split()[2] for line in done.out.splitlines() if line.startswith("responses: reasoning")] == ["1"]
    assert "truncated at --max-tokens: response 20%" in done.err
    fewer = rows[1:]
    assert "warning" in here("stats", write_jsonl(tmp_path / "few.jsonl", fewer)).err
    assert here("stats", write_jsonl(tmp_path / "none.jsonl", rows[2:])).err == ""
    assert here("stats", write_jsonl(tmp_path / "one.jsonl", rows[:1])).out.startswith("1 record\n")


def test_labels_say_what_they_are_worth(here: Here, tmp_path: Path) -> None:
    label = {"principles": ["p"], "p_first": 0.5, "orders": {"ab": 0.8, "ba": 0.2}, "mass": 0.001}
    rows = [{**preference(n, 0.5), "label": label} for n in range(3)] + [{"id": "x", "prompt": "y", "label": {"other": 1}}]
    done = here("stats", write_jsonl(tmp_path / "in.jsonl", rows))
    assert "the order decides 100% of pairs: this judge cannot tell them apart" in done.out
    assert "in 3 of 3 labels both letters together have under 1%" in done.err
