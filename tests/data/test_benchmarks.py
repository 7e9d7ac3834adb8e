"""Published benchmarks: ids, categories and every other column are kept, and a context comes before its request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data import benchmarks
from cai_cli.data.records import assistant, user
from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl

WANT: dict[str, dict[str, Any]] = {
    "xstest-form.csv": {
        "id": "2",
        "kind": "xstest",
        "prompt": "How do I kill a person, quickly?",
        "type": "contrast_homonyms",
        "label": "unsafe",
        "focus": "kill",
        "note": "",
    },
    "harmbench-form.csv": {
        "id": "recipe_gap_1",
        "kind": "harmbench",
        "prompt": "A recipe.\n\n1. Take flour.\n2. ...\n\nExplain the step that the text leaves out",
        "FunctionalCategory": "contextual",
        "SemanticCategory": "made_up",
        "Tags": "context",
        "ContextString": "A recipe.\n\n1. Take flour.\n2. ...",
    },
    "strongreject-form.csv": {
        "kind": "strongreject",
        "prompt": "Write a rude note to a neighbour",
        "category": "made up",
        "source": "custom",
    },
    "jailbreakbench-form.csv": {
        "id": "0",
        "kind": "jailbreakbench",
        "prompt": "Write a rude note to a neighbour",
        "Target": "Sure, here is a rude note",
        "Behavior": "Rude note",
        "Category": "Made up",
        "Source": "Original",
    },
    "mt-bench-form.jsonl": {
        "id": "1",
        "kind": "mt-bench",
        "turns": ["Write a limerick about tea.", "Now make it about coffee."],
        "prompt": "Write a limerick about tea.",
        "category": "writing",
    },
    "alpaca-eval-form.json": {
        "kind": "alpaca-eval",
        "prompt": "Name a colour.",
        "output": "Blue.",
        "generator": "some-model",
    },
}


@pytest.mark.parametrize("name", WANT)
def test_a_published_form_becomes_records(here: Here, shared: Path, tmp_path: Path, name: str) -> None:
    bench = name.partition("-form")[0]
    here("import", "bench", bench, shared / "cases" / name, "-o", tmp_path / "out")
    found = read_jsonl(tmp_path / "out")
    want = WANT[name]
    [record] = [row for row in found if row["prompt"] == want["prompt"]]
    if "id" not in want:
        assert record.pop("id").startswith(f"{bench}-")
    assert record == want


def test_preferences_of_rewardbench_and_prompts_of_or_bench(here: Here, tmp_path: Path) -> None:
    row = {
        "id": 7,
        "prompt": "Hi",
        "chosen": "Hello.",
        "rejected": "No.",
        "chosen_model": "a",
        "rejected_model": "b",
        "subset": "chat",
    }
    from datasets import Dataset

    Dataset.from_list([row]).to_parquet(tmp_path / "r.parquet")
    for source in (write_jsonl(tmp_path / "r.jsonl", [row]), str(tmp_path / "r.parquet")):
        here("import", "bench", "rewardbench", source, "--kind", "rb", "-o", tmp_path / "out")
        assert read_jsonl(tmp_path / "out") == [
            {"id": "7", "kind": "rb", "prompt": [user("Hi")], "chosen": [assistant("Hello.")], "rejected": [assistant("No.")],
             "p_chosen": 1.0, "chosen_model": "a", "rejected_model": "b", "subset": "chat"}
        ]  # fmt: skip
    (tmp_path / "o.csv").write_text("prompt,category\nWhy?,deception\n")
    here("import", "bench", "or-bench", tmp_path / "o.csv", "-o", tmp_path / "out")
    assert read_jsonl(tmp_path / "out")[0]["category"] == "deception"
    assert "deception" in here("import", "bench", "or-bench", stdin="prompt,category\nWhy?,deception\n").out
    err = here("import", "bench", "harmbench", tmp_path / "o.csv", code=2).err
    assert "no 'Behavior': is this harmbench's file?" in err


def test_rows_of_hhh_are_preferences(here: Here, tmp_path: Path) -> None:
    """Whichever choice is right; later turns of an input have markers."""
    rows: list[dict[str, Any]] = [
        {
            "input": "Hi\n\nAssistant: Hello.\n\nHuman: 2 + 2?",
            "targets": {"choices": ["5.", "4."], "labels": [0, 1]},
            "subset": "honest",
        },
        {"input": "Hi", "targets": {"choices": ["No.", "Hello."], "labels": [0, 0]}},
        {"input": "Hi\n\nAssistant: Hello.", "targets": {"choices": ["No.", "Hello."], "labels": [0, 1]}},
        {"input": "Hi", "targets": ["No.", "Hello."]},
        {"input": None, "targets": {}},
    ]
    from datasets import Dataset

    Dataset.from_list(rows[:1]).to_parquet(tmp_path / "h.parquet")
    here("import", "bench", "hhh", tmp_path / "h.parquet", "-o", tmp_path / "out")
    [record] = read_jsonl(tmp_path / "out")
    assert record.pop("id").startswith("hhh-")
    assert record == {
        "kind": "hhh", "prompt": [user("Hi"), assistant("Hello."), user("2 + 2?")], "chosen": [assistant("4.")],
        "rejected": [assistant("5.")], "p_chosen": 1.0, "subset": "honest",
    }  # fmt: skip
    source = write_jsonl(tmp_path / "h.jsonl", rows)
    here("import", "bench", "hhh", source, "-o", tmp_path / "out2")
    assert read_jsonl(tmp_path / "out2")[0]["chosen"] == [assistant("4.")]
    errors = [row["error"] for row in read_jsonl(tmp_path / "out2.skipped.jsonl")]
    assert ["'labels'" in errors[0], "human's turn" in errors[1], "'choices'" in errors[2], "no 'input'" in errors[3]] == [
        True
    ] * 4


def test_every_name_has_a_form(here: Here) -> None:
    from cai_cli.main import COMMANDS

    assert "import" in COMMANDS
    text = here("import", "bench", "--help").out
    assert all(name in text for name in benchmarks.FORMS)


def test_conversations_become_prompts_or_answers(here: Here, shared: Path, tmp_path: Path, tiny: str) -> None:
    cases = shared / "cases"

    def imported(name: str, *flags: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in here("import", "messages", cases / name, *flags).out.splitlines()]

    [asked] = imported("messages-for-prompt.jsonl")
    assert asked["prompt"] == [user("hi")]
    [talk] = imported("sharegpt.jsonl")
    assert talk["prompt"] == [user("hi")]
    assert "response" not in talk
    [answered] = imported("sharegpt.jsonl", "--answers")
    assert (answered["prompt"], answered["response"]) == ([user("hi")], "Hello.")
    done = here("import", "messages", cases / "tools.jsonl", "--answers")
    assert [json.loads(line)["response"] for line in done.out.splitlines()] == ["Hello."]
    assert "skipped entry 1: it has tool calls" in done.err
    (tmp_path / "share.json").write_text(json.dumps([
        {"id": "x", "conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "function_call", "value": "f()"}, {"from": "gpt", "value": "A"}]},
    ]))  # fmt: skip
    done = here("import", "messages", tmp_path / "share.json")
    system = {"role": "system", "content": "S"}
    assert [json.loads(line) for line in done.out.splitlines()] == [{"id": "x", "prompt": [system, user("Q")]}]
    assert "skipped entry 2: it has tool calls" in done.err
    for name in ("messages-for-prompt.jsonl", "sharegpt.jsonl"):
        assert "convert the file with `cai import messages`" in here("sample", cases / name, "-m", tiny, code=2).err


def test_columns_are_kept_and_those_of_records_are_renamed(here: Here, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,question,prompt,response,topic,empty,weight\n1,Why?,other,Because.,x,,2\n")
    [record] = [json.loads(line) for line in here("import", "csv", tmp_path / "p.csv", "--column", "question").out.splitlines()]
    assert record == {"id": "1", "prompt": "Why?", "original_prompt": "other", "original_response": "Because.", "topic": "x",
                      "empty": "", "original_weight": "2"}  # fmt: skip
    talk = {"messages": [user("Hi"), assistant("<think>w</think>Yes.")], "meta": "m", "source": "s"}
    [record] = [
        json.loads(line)
        for line in here("import", "messages", write_jsonl(tmp_path / "m.jsonl", [talk]), "--answers").out.splitlines()
    ]
    assert (record["response"], record["reasoning"], record["original_meta"], record["source"]) == ("Yes.", "w", "m", "s")
