"""Other people's constitutions: the paper's files, Hugging Face's form, and the exact prompts they give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_cli.errors import InputError
from cai_cli.method import constitution, prompts


def test_forms_of_the_papers_kind_load(tmp_path: Path) -> None:
    """Small files of our own in the published forms, joined by number."""
    example = "\n\nHuman: a\n\nAssistant: b\n\nCritiqueRequest: c\n\nCritique: d\n\nRevisionRequest: e\n\nRevision: f"
    ask = "\n\nCritiqueRequest: Say.\n\nCritique:"
    files = {
        "i": {"harmful0": {"prompt": [ask], "edit_request": "\n\nRevisionRequest: Fix.\n\nRevision:"}},
        "c": ["\nChoose. Options:"],
        "f": [f"{example}\n\nHuman:", example.replace(": b", ": bb")],
        "r": [{"prompt": "\n\nHuman: Q\n\nAssistant:", "corrects": ["A"], "incorrects": ["B"]}],
        "p": [{"prompt": "\n\nHuman: Consider\n\n{}\n (A) [[[x]]]\n\nAssistant: Let's.\n\nHuman:\nSo the answer is: (A)"}],
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = constitution.load(*(str(tmp_path / f"{name}.json") for name in files))
    [principle] = found.principles
    assert (principle.critique, principle.revision, principle.compare) == ("Say.", "Fix.", "Choose.")
    assert found.examples.critique == (example, example.replace(": b", ": bb"))
    assert found.examples.comparison[0].prompt == [{"role": "user", "content": "Q"}]
    record = {"id": "x", "prompt": "Hello?", "response": "Hi."}
    got = prompts.critique(record, principle, "hh", found.examples.critique[:1]).text
    assert got == f"{example}\n\nHuman: Hello?\n\nAssistant: Hi.{ask}"


def test_the_papers_files_load_as_they_are(paper: list[str]) -> None:
    found = constitution.load(*paper)
    found.require("critique", "revision", "compare")
    assert [p.id for p in found.principles] == [f"harmful{i}" for i in range(16)]
    assert (len(found.examples.critique), len(found.examples.comparison), len(found.examples.reasoned)) == (5, 5, 6)
    with pytest.raises(InputError, match="holds examples but no principles"):
        constitution.load(paper[1])
    with pytest.raises(InputError, match="no 'compare' text"):
        constitution.load(paper[0]).require("compare")


def test_the_papers_transcripts_are_built_exactly(paper: list[str]) -> None:
    """Expected texts are put together here from the files alone."""
    instructions, few_shot = (json.loads(Path(path).read_text()) for path in paper[:2])
    found = constitution.load(*paper)
    examples = found.examples.critique
    prefix = "".join(text[: -len("\n\nHuman:")] if text.endswith("\n\nHuman:") else text for text in few_shot)
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
        assert critique.text == prefix + talk + entry["prompt"][0]
        revision = prompts.revision(record, principle, "Bad.", "hh", examples)
        assert revision.text == prefix + talk + entry["prompt"][0] + " Bad." + entry["edit_request"]
        assert critique.stop == revision.stop
        assert {"\n\nHuman:", "\n\nCritiqueRequest:", "\n\nRevisionRequest:"} <= set(critique.stop)
        assert critique.text[: critique.shared] == prefix
    direct = prompts.direct_revision(record, principle, "hh", examples).text
    assert direct.endswith(talk + entry["edit_request"])
    assert "Critique:" not in direct
    assert direct.count("\n\nRevision:") == 6


def test_hugging_faces_form_loads(tmp_path: Path) -> None:
    turns = ["Ask?", "Answer.", "Critic?", "It is bad.", "Revise!", "Better."]
    chat = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(turns)]
    path = tmp_path / "hf.json"
    path.write_text(
        json.dumps({"constitutions": [{"critic": "Say what is wrong.", "revision": "Fix it."}], "system_chat": [chat]})
    )
    found = constitution.load(str(path))
    assert [(p.id, p.critique, p.revision) for p in found.principles] == [("principle-1", "Say what is wrong.", "Fix it.")]
    asked, *rest = prompts.example_turns(found.examples.critique)
    assert asked["content"].endswith(":\n\nHuman: Ask?\n\nAssistant: Answer.\n\n\nCritic?")
    assert rest == chat[3:]
    path.write_text(json.dumps({"constitutions": [{"critic": "x"}]}))
    with pytest.raises(InputError, match=r"hf\.json: not a constitution in a known format"):
        constitution.load(str(path))
