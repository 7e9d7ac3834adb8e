"""`cai constitution infer`: rules from what a model writes, groups of similar ones, and those that predict held-out choices."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cai_cli.commands.constitution_infer import _finish, held_out, results, together, written
from cai_cli.method import constitution, inference
from tests.conftest import Here
from tests.rows import preference, read_jsonl, write_jsonl


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (" is kinder to the person. It also", "Choose the response that is kinder to the person."),
        ("  admits\nwhat it does not know!", "Choose the response that admits what it does not know."),
        ("Choose the response that is brief", "Choose the response that is brief."),
        (" is a friend of all people", "Choose the response that is a friend of all people."),
        (" (A) gives.", None),
        (" agrees with response B because it is short.", None),
        (" good.", None),
        (" " + "very " * 50 + "long.", None),
        ("", None),
    ],
)
def test_a_rule_is_the_first_sentence(text: str, rule: str | None) -> None:
    assert inference.rule(text) == rule


def test_similar_rules_are_one_candidate() -> None:
    """The rule of a group is the one that most others are like; the groups with most proposals are first."""
    kind = ["is kind to the user", "is kind to the users", "is kind and polite to the user"]
    other = ["refuses to help with crimes", "is short"]
    rules = [f"{inference.BEGINNING} {each}." for each in [*kind, other[0], other[0], other[1], kind[0]]]
    found = inference.candidates(rules, 2)
    assert found == [(rules[0], {rules[0]: 2, rules[1]: 1, rules[2]: 1}), (rules[3], {rules[3]: 2})]
    assert inference.candidates([], 2) == []
    taken: set[str] = set()
    assert [inference.identity(rules[0], taken) for _ in range(3)] == ["kind-user", "kind-user-2", "kind-user-3"]


def test_of_equally_large_groups_the_most_general_rule_is_first() -> None:
    """Else a rule about a single pair would be judged because its pair is the first one."""
    said = ["names the fastest train to Oslo", "is kind and honest with people", "is honest with people about what it knows"]
    found = inference.candidates([f"{inference.BEGINNING} {each}." for each in said], 4)
    assert [leader for leader, _ in found][-1].endswith("Oslo.")
    assert len(found) == 3


@pytest.mark.parametrize("format", ["chat", "hh"])
def test_the_examples_of_rules_come_before_the_question(format: str) -> None:
    prompt = inference.proposal("Hi", ("Hello.", "Go away."), 0, format, None)
    texts = [m["content"] for m in prompt.messages or []] or [prompt.text]
    said = "".join(texts)
    assert [said.index(question) for question, *_ in inference.EXAMPLES] == sorted(said.index(q) for q, *_ in inference.EXAMPLES)
    assert said.rindex(inference.EXAMPLES[-1][3]) < said.rindex("Go away.")
    bare = inference.proposal("Hi", ("Hello.", "Go away."), 0, format)
    assert said.endswith(bare.messages[-1]["content"] if bare.messages else bare.text)
    assert bare.shared == 0 < prompt.shared


@pytest.mark.parametrize(
    ("rule", "opposite"),
    [
        ("makes safe things, and not things that poison people", "makes things that poison people, and not safe things"),
        ("is more polite to the person", "is less polite to the person"),
        ("helps with what was asked", "refuses help with what was asked"),
    ],
)
def test_opposite_rules_are_two_candidates(rule: str, opposite: str) -> None:
    both = [f"{inference.BEGINNING} {each}." for each in (rule, opposite)]
    assert [leader for leader, _ in inference.candidates(both, 4)] == both


def test_rules_that_predict_are_kept_and_measured_on_held_out_pairs() -> None:
    chance = random.Random(0)
    rows = [
        {
            "id": str(i),
            "held_out": i % 2 == 1,
            "votes": {"good": 0.9 if chance.random() < 0.8 else 0.1, "silent": 0.5, "bad": 0.2, "lucky": 0.2 if i % 2 else 0.9},
        }
        for i in range(400)
    ]
    rules = {name: f"{inference.BEGINNING} is {name} here." for name in ("bad", "silent", "lucky", "good")}
    found = results(rows, rules, dict.fromkeys(rules, 3), keep=5, seed=0)
    # what only fits the pairs that it was proposed from is not kept
    assert [(row["id"], row["kept"]) for row in found] == [("good", True), ("lucky", False), ("silent", False), ("bad", False)]
    good, _, silent, _ = found
    assert good["held_out"]["pairs"] == 200
    assert good["held_out"]["low"] < 0.8 < good["held_out"]["high"]
    assert (silent["selection"]["accuracy"], silent["selection"]["support"]) == (0.5, 0.0)
    both = together(rows, ["good"], 0)
    assert both
    assert both.accuracy == good["held_out"]["accuracy"]
    assert not any(row["kept"] for row in results(rows, rules, dict.fromkeys(rules, 3), keep=0, seed=0))


def test_the_written_file_is_a_constitution_for_every_command(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(written({"kind": f"{inference.BEGINNING} is kind."}, "mine", "Notes: with a colon", {"kind": "remark: one"}))
    found = constitution.load(str(path))
    for text in ("critique", "revision", "compare"):
        found.require(text)
    assert found.principles[0].compare == "Choose the response that is kind."


def test_stages_are_files_and_the_same_command_continues(here: Here, tiny: str, tmp_path: Path) -> None:
    """A tiny model predicts nothing, so no rule is kept; every stage is on disk, and is not made again."""
    rows = [{**preference(i, 1.0, f"Answer {i} is good.", f"Never, {i}."), "source_id": f"s{i // 2}"} for i in range(12)]
    source, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "inferred"
    command = ("constitution", "infer", source, "-m", tiny, "-o", out, "-n", 4, "--max-tokens", 12, "--dtype", "float32")
    assert "no rule predicts the choices better than chance" in here(*command, code=1).err
    assert {row["id"] for row in read_jsonl(out / "proposals.jsonl")} == {row["id"] for row in rows if not held_out(row, 0)}
    grouped = read_jsonl(out / "candidates.jsonl")
    assert all(sum(group["alike"].values()) == group["proposals"] for group in grouped)
    votes = read_jsonl(out / "votes.jsonl")
    assert {row["id"] for row in votes} == {row["id"] for row in rows}
    assert all(0 <= p <= 1 for row in votes for p in row["votes"].values())
    both = [row["held_out"] for row in votes]
    assert both[::2] == both[1::2]  # the pairs of a prompt are in one half
    assert here(*command, code=1).err.count("already done") == 2
    assert "-o DIR" in here(*command[:5], code=2).err


def test_what_is_kept_is_written(tmp_path: Path) -> None:
    rows = [{"id": str(i), "held_out": i % 2 == 1, "votes": {"kind": 0.9, "odd": 0.2 + i % 2 / 2}} for i in range(60)]
    rules = {name: f"{inference.BEGINNING} is {name}." for name in ("kind", "odd")}
    _finish(tmp_path, rows, rules, {"kind": 5, "odd": 2}, keep=4, seed=0, quiet=True)
    found = constitution.load(str(tmp_path / "constitution.yaml"))
    assert [principle.id for principle in found.principles] == ["kind"]
    text = (tmp_path / "constitution.yaml").read_text()
    assert "together right on 1.000 (1.000 to 1.000) of 30 held-out pairs" in text.replace("\n  ", " ")
    assert "# right on 1.000 (1.000 to 1.000) of 30 pairs where it was proposed, 1.000 (1.000 to 1.000)" in text
    assert [row["kept"] for row in read_jsonl(tmp_path / "principles.jsonl")] == [True, False]
