"""Constitutions: what a file may hold and include, other people's forms, and the exact prompts they give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cai_cli import constitution, prompts, transcripts
from cai_cli.errors import InputError
from tests.conftest import Here
from tests.test_stage import EXACT
from tests.tiny import ROOT, read_jsonl, write_jsonl

PAPER = ("CritiqueRevisionInstructions", "CritiqueRevisionFewShotPrompts", "RLMadisonInstructions", "RLMadisonFewShotPrompts",
         "RLMadisonPrecogFewShotPrompts")  # fmt: skip


@pytest.fixture(scope="module")
def paper(shared: Path) -> list[str]:
    return [str(shared / "data" / "paper" / f"{name}.json") for name in PAPER]


def test_the_packaged_constitutions_are_whole() -> None:
    assert {"default", "non-evasive", "single", "seafarer"} <= set(constitution.packaged())
    for name in constitution.packaged():
        found = constitution.load(name)
        found.require("critique", "revision", "compare")
        assert len({p.critique for p in found.principles}) == len({p.compare for p in found.principles}) == len(found.principles)
    found = constitution.load(constitution.DEFAULT)
    assert len(found.principles) == 16
    assert {found.draw(0, f"id{i}", 0).id for i in range(400)} == set(found.by_id)
    assert len(found.examples.critique) >= 3
    assert len(constitution.load("single").principles) == 1


def test_a_file_includes_another_and_adds_drops_and_reweights(tmp_path: Path) -> None:
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("name: base\nprinciples:\n- {id: a, critique: A}\n- {id: b, critique: B}\n- {id: c, critique: C}\n")
    mine.write_text(
        "name: mine\ninclude:\n- {name: base.yaml, drop: [a], weights: {b: 3}}\nprinciples:\n- {id: d, critique: D, weight: 0.5}\n"
    )
    found = constitution.load(str(mine))
    assert [(p.id, p.weight) for p in found.principles] == [("b", 3), ("c", 1), ("d", 0.5)]
    drawn = [found.draw(0, f"q{i}", 0).id for i in range(4500)]
    assert drawn.count("b") == pytest.approx(3000, abs=150)
    assert drawn.count("d") == pytest.approx(500, abs=100)
    before = found.sha256
    base.write_text(base.read_text().replace("critique: C", "critique: Other"))
    assert constitution.load(str(mine)).sha256 != before  # the hash is of all the files
    assert [p.id for p in found.select(["b"], []).principles] == ["b"]
    with pytest.raises(InputError, match="no principle 'z'; there are b, c, d"):
        found.select(["z"], [])


BAD = {
    "include: {name: base, drop: [zz]}": "base has no principle 'zz'",
    "include: {name: base, weights: {a: -1}}": "'weight' must be a positive number",
    "include: {name: base, without: [a]}": "unknown field 'without'",
    "include: me": "includes itself",
    "include: nowhere.yaml": "no such file",
    "include: base\nprinciples:\n- {id: a, critique: Again}": "'a' has another text in",
    "include: 5": "each of 'include' must be a name",
    "include: {name: base, drop: [[a]]}": "must be lists of principle ids",
    "principles: [{id: 12, critique: X}]": "'id' that is a text",
    "principles: [{id: x, critique: X}]\nexamples: {critique: ['Human: hi']}": "example 1 of 'critique'",
    "principles: [{id: x, critique: X}]\nexamples: {comparison: [{prompt: hi, better: b}]}": "'worse' must be a text",
    "principles: [{id: x, critique: X}]\nexamples: {reasoned: [none]}": "where the principle goes",
    "principles: [{id: x, critique: X}]\nexamples: {critic: []}": "unknown field 'critic'",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_says_what_is_wrong_and_where(text: str, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("principles: [{id: a, critique: A}]")
    path = tmp_path / "me.yaml"
    path.write_text(
        text.replace("name: base", "name: base.yaml")
        .replace("include: base\n", "include: base.yaml\n")
        .replace("include: me", "include: me.yaml")
    )
    with pytest.raises(InputError) as problem:
        constitution.load(str(path))
    assert BAD[text].replace("base has", "base.yaml has") in str(problem.value)


def test_the_documented_form_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs/constitutions.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "c.yaml").write_text(text)
    found = constitution.load(str(tmp_path / "c.yaml"))
    assert {"kindness", "wisdom", "no-bare-refusal"} <= set(found.by_id)
    assert "honesty" in found.by_id  # non-evasive brings it
    assert found.by_id["wisdom"].weight == 2


def test_files_that_overlap_are_joined() -> None:
    found = constitution.load("default", "non-evasive")
    assert len(found.principles) == 18
    assert len(found.examples.critique) == len(constitution.load("default").examples.critique)


def test_forms_of_the_papers_kind_load(tmp_path: Path) -> None:
    """Small files of our own in the published forms, joined by number."""
    example = "\n\nHuman: a\n\nAssistant: b\n\nCritiqueRequest: c\n\nCritique: d\n\nRevisionRequest: e\n\nRevision: f"
    files = {
        "i": {
            "harmful0": {
                "prompt": ["\n\nCritiqueRequest: Say.\n\nCritique:"],
                "edit_request": "\n\nRevisionRequest: Mend.\n\nRevision:",
            }
        },
        "c": ["\nChoose. Options:"],
        "f": [f"{example}\n\nHuman:", example.replace(": b", ": bb")],
        "r": [{"prompt": "\n\nHuman: Q\n\nAssistant:", "corrects": ["A"], "incorrects": ["B"]}],
        "p": [{"prompt": "\n\nHuman: Consider\n\n{}\n (A) [[[x]]]\n\nAssistant: Let's.\n\nHuman:\nSo the answer is: (A)"}],
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = constitution.load(*(str(tmp_path / f"{name}.json") for name in files))
    [principle] = found.principles
    assert (principle.critique, principle.revision, principle.compare) == ("Say.", "Mend.", "Choose.")
    assert found.examples.critique == (example, example.replace(": b", ": bb"))
    assert found.examples.comparison[0].prompt == [{"role": "user", "content": "Q"}]
    record = {"id": "x", "prompt": "Hello?", "response": "Hi."}
    got = prompts.critique(record, principle, "hh", found.examples.critique[:1]).text
    assert got == f"{example}\n\nHuman: Hello?\n\nAssistant: Hi.{files['i']['harmful0']['prompt'][0]}"  # type: ignore[call-overload,index]


def test_the_papers_files_load_as_they_are(paper: list[str]) -> None:
    found = constitution.load(*paper)
    found.require("critique", "revision", "compare")
    assert [p.id for p in found.principles] == [f"harmful{i}" for i in range(16)]
    assert (len(found.examples.critique), len(found.examples.comparison), len(found.examples.reasoned)) == (5, 5, 6)
    with pytest.raises(InputError, match="holds examples and no principles"):
        constitution.load(paper[1])
    with pytest.raises(InputError, match="no 'compare' text"):
        constitution.load(paper[0]).require("compare")


def test_the_papers_transcripts_are_built_exactly(paper: list[str]) -> None:
    """Expected texts are put together here from the files alone."""
    instructions, few_shot = (json.loads(Path(path).read_text()) for path in paper[:2])
    found = constitution.load(*paper)
    examples = found.examples.critique
    lead = "".join(text[: -len("\n\nHuman:")] if text.endswith("\n\nHuman:") else text for text in few_shot)
    prompt = [
        {"role": "user", "content": "Hello: there"},
        {"role": "assistant", "content": "Hi.\n\nHow are you?"},
        {"role": "user", "content": "Well."},
    ]
    record = {"id": "x", "prompt": prompt, "response": "First.", "rounds": [{"revision": "Second."}]}
    talk = "\n\nHuman: Hello: there\n\nAssistant: Hi.\n\nHow are you?\n\nHuman: Well.\n\nAssistant: Second."
    for name, entry in instructions.items():
        principle = found.get(name)
        critique = prompts.critique(record, principle, "hh", examples)
        assert critique.text == lead + talk + entry["prompt"][0]
        revision = prompts.revision(record, principle, "Bad.", "hh", examples)
        assert revision.text == lead + talk + entry["prompt"][0] + " Bad." + entry["edit_request"]
        assert critique.stop == revision.stop
        assert {"\n\nHuman:", "\n\nCritiqueRequest:", "\n\nRevisionRequest:"} <= set(critique.stop)
        assert critique.text[: critique.shared] == lead
    direct = prompts.direct_revision(record, principle, "hh", examples).text
    assert direct.endswith(talk + entry["edit_request"])
    assert "Critique:" not in direct
    assert direct.count("\n\nRevision:") == 6


def test_examples_become_turns_of_a_chat() -> None:
    found = constitution.load(constitution.DEFAULT)
    record = {"id": "x", "prompt": "Hello?", "response": "Hi."}
    prompt = prompts.critique(record, found.principles[0], "chat", found.examples.critique)
    assert prompt.messages is not None
    assert prompt.shared == 6 * len(found.examples.critique)
    assert [m["role"] for m in prompt.messages] == ["user", "assistant"] * (len(prompt.messages) // 2) + ["user"]
    assert prompt.messages[prompt.shared :] == [
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": found.principles[0].critique},
    ]
    system = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    first = prompts.critique({**record, "prompt": system}, found.principles[0], "chat", found.examples.critique)
    assert first.messages is not None
    assert [m["role"] for m in first.messages].index("system") == 0


def test_hugging_faces_form_loads(tmp_path: Path) -> None:
    turns = ["Ask?", "Answer.", "Critic?", "It is bad.", "Revise!", "Better."]
    chat = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(turns)]
    path = tmp_path / "hf.json"
    path.write_text(
        json.dumps({"constitutions": [{"critic": "Say what is wrong.", "revision": "Mend it."}], "system_chat": [chat]})
    )
    found = constitution.load(str(path))
    assert [(p.id, p.critique, p.revision) for p in found.principles] == [("principle-1", "Say what is wrong.", "Mend it.")]
    assert prompts.example_turns(found.examples.critique) == chat
    path.write_text(json.dumps({"constitutions": [{"critic": "x"}]}))
    with pytest.raises(InputError, match=r"hf\.json: not a constitution in a form that is known"):
        constitution.load(str(path))


def test_a_converted_constitution_is_the_same_one(here: Here, paper: list[str], tmp_path: Path) -> None:
    for names in ([constitution.DEFAULT], ["non-evasive"], paper):
        out = tmp_path / "out.yaml"
        here("constitution", "convert", *names, "-o", out)
        before, after = constitution.load(*names), constitution.load(str(out))
        assert (after.principles, after.examples) == (before.principles, before.examples)
    assert set(yaml.safe_load(out.read_text())) == {"name", "principles", "examples"}


def test_the_group_lists_shows_and_checks(here: Here, tmp_path: Path) -> None:
    assert "seafarer" in here("constitution", "list").out
    shown = here("constitution", "show", "default", "--tags", "privacy").out
    assert "crime-avoidance" in shown
    assert "general-harm" not in shown.split("\n", 3)[3]
    path = tmp_path / "c.yaml"
    path.write_text("name: x\nprinciples:\n- {id: a, critique: Say so.}\n- {id: b, critique: Say so., revision: Mend it.}\n")
    done = here("constitution", "check", path).out
    assert "2 principles (2 critique, 1 revision, 0 compare)" in done
    assert "without a 'revision' text: a" in done
    path.write_text("name: x\nprinciples:\n- {id: a}\n")
    assert "the principle 'a' has none of" in here("constitution", "check", path, code=2).err


def test_commands_draw_from_the_principles_that_are_named(here: Here, tiny: str, tmp_path: Path) -> None:
    rows = [{"id": f"q{i}", "prompt": "Hello?", "response": "Hi."} for i in range(12)]
    source, out = write_jsonl(tmp_path / "r.jsonl", rows), tmp_path / "out.jsonl"
    here("critique", source, "-m", tiny, *EXACT, "--few-shot", 0, "--principles", "honesty,wisdom", "-o", out)
    assert {row["rounds"][0]["principle"] for row in read_jsonl(out)} == {"honesty", "wisdom"}
    here("critique", source, "-m", tiny, *EXACT, "-c", "seafarer", "-o", out)
    assert {row["rounds"][0]["principle"] for row in read_jsonl(out)} == {"captains-voice"}
    made = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["constitution"]
    assert (made["name"], made["principles"]) == ("seafarer", ["captains-voice"])
    assert "no tag 'nonesuch'" in here("critique", source, "-m", tiny, "--tags", "nonesuch", code=2).err


def test_examples_of_a_round_must_be_whole() -> None:
    whole = "Human: a\n\nAssistant: b\n\nCritiqueRequest: c\n\nCritique: d\n\nRevisionRequest: e\n\nRevision: f"
    assert transcripts.example(whole) == f"\n\n{whole}" == transcripts.example(f"\n\n{whole}\n\nHuman:")
    for cut in ("Human: a\n\n", "Assistant: b\n\n", "Critique: d\n\n", "\n\nRevision: f"):
        with pytest.raises(ValueError, match="example"):
            transcripts.example(whole.replace(cut, ""))
