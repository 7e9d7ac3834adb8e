"""`cai show`: which records, and how their texts are printed."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from cai_cli.commands.show import word_diff
from cai_cli.data.jsonl import Record
from cai_cli.method import constitution
from cai_cli.pipeline import manifest
from tests.conftest import Here
from tests.rows import flagged, read_jsonl, write_jsonl
from tests.tiny import EXACT


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


def test_a_preference_shows_each_answer_once(here: Here, tmp_path: Path) -> None:
    row = {"id": "a/1-2", "prompt": "Hello?", "responses": ["No.", "Yes.", "Maybe."], "p_chosen": 0.75,
           "chosen": [{"role": "assistant", "content": "Maybe."}], "rejected": [{"role": "assistant", "content": "Yes."}],
           "label": {"pair": [1, 2], "principles": ["kind"], "p_first": 0.25, "orders": {"ab": 0.25}}}  # fmt: skip
    out = here("show", write_jsonl(tmp_path / "x.jsonl", [row])).out
    assert out.count("Yes.") == out.count("Maybe.") == 1
    assert "response 0\nNo." in out
    assert "response 1, rejected\nYes." in out
    assert "response 2, chosen, p 0.750\nMaybe." in out
    same = {**row, "responses": ["Same.", "Same.", "Same."], "label": {"pair": [1, 2], "identical": True}}
    same |= {side: [{"role": "assistant", "content": "Same."}] for side in ("chosen", "rejected")}
    out = here("show", write_jsonl(tmp_path / "same.jsonl", [same])).out
    assert "response 0\nSame.\n\nresponse 1, chosen, p 0.750\nSame." in out
    assert "response 2, rejected\nSame." in out
    assert "chosen, p 0.750\nOther." in here("show", write_jsonl(tmp_path / "y.jsonl", [{
        **row, "chosen": [{"role": "assistant", "content": "Other."}]}])).out  # fmt: skip


def test_reasoning_is_shown_before_its_text_and_marked_if_cut(here: Here, tmp_path: Path) -> None:
    rows: list[Record] = [
        {"id": "a", "prompt": "x", "response": "Yes.", "reasoning": "Why not.",
         "rounds": [{"principle": "kind", "critique": "Bad.", "reasoning": {"critique": "Rude?"}}]},
        {"id": "b", "prompt": "x", "responses": ["", "Two."], "reasoning": ["Hm", None],
         "meta": {"responses": [{"finish": "length", "reasoning": "cut"}, {}]}},
        {"id": "c", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>Me?</think>Me."}]},
        {"id": "e", "response": "Last.", "prompt": [{"role": "user", "content": "q"},
          {"role": "assistant", "content": "First.", "reasoning": "Early"}, {"role": "user", "content": "r"}]},
        {"id": "d", "prompt": "x", "responses": ["1", "2"],
         "label": {"principles": ["kind"], "p_first": 0.6, "orders": {"ab": 0.6}, "cut": 2, "reasoning": [
             {"principle": "kind", "order": "ab", "text": "Because", "p_first": 0.6, "meta": {"finish": "length"}}]}},
    ]  # fmt: skip
    out = here("show", write_jsonl(tmp_path / "x.jsonl", rows)).out
    for shown in (
        "response: reasoning\nWhy not.\n\nresponse\nYes.",
        "critique 1: reasoning\nRude?\n\ncritique 1, by kind\nBad.",
        "response 0: reasoning [cut]\nHm\n\nresponse 0 [cut]\n",
        "response 1\nTwo.",
        "assistant: reasoning\nMe?\n\nassistant\nMe.",
        "assistant: reasoning\nEarly\n\nassistant\nFirst.",
        "p of the first 0.600 [cut]\nBecause",
        "label, by kind [2 cut]",
    ):
        assert shown in out


def test_the_principles_text_is_shown_from_any_directory(
    here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "r.jsonl", [{"id": "a", "prompt": "x", "response": "y"}])
    rules = tmp_path / "mine.yaml"
    rules.write_text("name: mine\nprinciples:\n- {id: kind, critique: Say if it is kind., revision: Make it kind.}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    here("critique", source, "-m", tiny, "-c", "mine.yaml", *EXACT, "-o", "c.jsonl")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "critique 1, by kind\nkind: Say if it is kind.\n" in re.sub(r" \[.*\]", "", here("show", "../c.jsonl").out)
    rules.write_text(rules.read_text().replace("if it is kind", "if it is true"))
    assert "kind:" not in here("show", "../c.jsonl").out
    here("critique", source, "-m", tiny, *EXACT, "-o", "c.jsonl")
    identity = read_jsonl("c.jsonl")[0]["rounds"][0]["principle"]
    text = constitution.load("default").get(identity).critique
    assert f"{identity}: {text}" in here("show", "c.jsonl").out


def test_a_text_that_two_constitutions_give_differently_is_not_shown(here: Here, tmp_path: Path) -> None:
    rows: list[Record] = [{"prompt": "x", "response": "y", "rounds": [{"principle": "kind", "critique": "c"}]}]
    for name, text in (("one", "Be kind."), ("two", "Be true.")):
        rules = tmp_path / f"{name}.yaml"
        rules.write_text(f"name: {name}\nprinciples:\n- {{id: kind, critique: {text}, revision: Better.}}\n")
        made = {"name": str(rules), "sha256": constitution.load(str(rules)).sha256}
        inputs = [{"path": "one.jsonl"}] if name == "two" else []
        manifest.write(f"{write_jsonl(tmp_path / f'{name}.jsonl', rows)}.manifest.json", {"constitution": made, "inputs": inputs})
    assert "kind: Be kind." in here("show", tmp_path / "one.jsonl").out
    assert "kind: Be" not in here("show", tmp_path / "two.jsonl").out


def test_grades_are_shown_a_line_per_criterion(here: Here, tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "x", "response": "y", "grades": {"kind": {"yes": 0.75, "no": 0.25}}}]
    rows.append(
        {
            "id": "b",
            "prompt": "x",
            "responses": ["y", "z"],
            "grades": {"kind": [{"yes": 1.0, "no": 0.0}, {"yes": 0.5, "no": 0.5}]},
        }
    )
    shown = here("show", write_jsonl(tmp_path / "in.jsonl", rows)).out
    assert "grades\nkind: yes 0.750, no 0.250\n" in shown
    assert "kind, response 1: yes 0.500, no 0.500" in shown
    bad = write_jsonl(tmp_path / "bad.jsonl", [{**rows[0], "grades": {"kind": "A"}}])
    assert "'grades.kind' must be an object, found str" in here("show", bad, code=2).err
