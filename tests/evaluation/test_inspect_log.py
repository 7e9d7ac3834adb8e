"""`cai export inspect`: what Inspect's viewer is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data.records import assistant, user
from tests.conftest import Here
from tests.rows import write_jsonl

EVIL = "</script><img src=x onerror=alert(1)> \u2028 {{7*7}}"
NAME = "2026-01-31T12-00-00_graded.json"
RECORDS: list[dict[str, Any]] = [
    {"id": "a1/x", "kind": "red-team", "prompt": f"How? {EVIL}", "response": "Like this.", "scores": {"response": 0.5, "rounds": [2.5]},
     "rounds": [{"principle": "ethics", "critique": f"It helps a thief. {EVIL}", "revision": f"I can't help. {EVIL}"}],
     "grades": {"harmless": {"yes": 0.75, "no": 0.25}, "reason": {"no": 0.5, "yes": 0.5}}},
    {"id": "a2", "prompt": [{"role": "system", "content": "Be brief."}, user("Hi")], "responses": ["Hello.", "Go away."],
     "grades": {"harmless": [{"yes": 1.0, "no": 0.0}, {"yes": 0.25, "no": 0.75}]}, "scores": {"responses": [1.0, -1.0]}},
]  # fmt: skip
COMPARED: list[dict[str, Any]] = [
    {"id": "q1/base-rl", "source_id": "q1", "prompt": "Hi", "models": ["base", "rl"], "responses": ["No.", "Hello."], "pm": [0.0, 1.0],
     "comparisons": {"harmless": {"principles": ["ethics"], "p_first": 0.25, "orders": {"ab": 0.25, "ba": 0.25}}}},
    {"id": "p1", "prompt": "Hi", "chosen": [assistant("Hello.")], "rejected": [assistant("No.")], "p_chosen": 0.75},
    {"id": "j1", "prompt": "Hi", "chosen": "Hello.", "rejected": "No.", "judged": {"correct": 1, "p_correct": 0.625}},
]  # fmt: skip


def log_of(here: Here, folder: Path, records: list[dict[str, Any]]) -> Any:
    here("export", "inspect", write_jsonl(folder / "in.jsonl", records), "-o", folder / "logs" / NAME)
    assert [path.name for path in (folder / "logs").iterdir()] == [NAME]  # the viewer would list a manifest as a log
    return json.loads((folder / "logs" / NAME).read_text())


def test_answers_are_samples_with_their_grades_and_scores(here: Here, tmp_path: Path) -> None:
    log = log_of(here, tmp_path, RECORDS)
    assert (log["version"], log["status"], log["eval"]["task"], log["eval"]["model"]) == (2, "success", "in.jsonl", "unknown")
    assert log["eval"]["dataset"] == {"name": "in.jsonl", "samples": 3}
    assert [sample["id"] for sample in log["samples"]] == ["a1/x", "a2/0", "a2/1"]
    first, second, _ = log["samples"]
    assert first["input"] == [user(f"How? {EVIL}")]
    assert first["output"]["choices"][0]["message"]["content"] == first["output"]["completion"] == f"I can't help. {EVIL}"
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant"]
    assert {name: score["value"] for name, score in first["scores"].items()} == {"harmless": 0.75, "reason": 0.5, "score": 2.5}
    assert first["scores"]["harmless"]["answer"] == "yes"
    assert first["scores"]["harmless"]["explanation"] == "yes: 0.750\n\nno: 0.250"
    assert first["metadata"]["rounds"] == RECORDS[0]["rounds"]
    assert first["metadata"]["kind"] == "red-team"
    harmless = next(score for score in log["results"]["scores"] if score["name"] == "harmless")
    assert harmless["metrics"]["mean"]["value"] == pytest.approx(2 / 3)
    assert harmless["metrics"]["95% low"]["value"] <= 2 / 3 <= harmless["metrics"]["95% high"]["value"]


def test_comparisons_are_samples_with_two_choices(here: Here, tmp_path: Path) -> None:
    compared, preference, judged = log_of(here, tmp_path, COMPARED)["samples"]
    assert compared["choices"] == ["No.", "Hello."]
    assert compared["scores"] == {"harmless": {"value": 0.25, "answer": "B, rl", "explanation": "A, base: 0.250\n\nB, rl: 0.750"}}
    assert [message.get("model") for message in compared["messages"]] == [None, "base", "rl"]
    assert (preference["choices"], preference["target"], preference["scores"]["p_chosen"]["value"]) == (
        ["Hello.", "No."],
        "A",
        0.75,
    )
    assert judged["scores"]["p_correct"]["value"] == 0.625


def test_the_model_is_that_which_answered_and_the_commands_are_named(here: Here, tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", [{"id": "a", "prompt": "Hi"}])
    here("sample", source, "-m", tiny, "--engine", "transformers", "--max-tokens", 4, "-o", tmp_path / "r.jsonl")
    done = here("export", "inspect", tmp_path / "r.jsonl", "-o", tmp_path / "r.json")
    assert "Inspect lists only files whose names begin with a time: 2026-01-31T12-00-00_r.json" in done.err
    found = json.loads((tmp_path / "r.json").read_text())["eval"]
    assert found["model"] == tiny
    assert found["metadata"]["steps"][0]["command"][:2] == ["cai", "sample"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no answer": ({"prompt": "Hi"}, "no 'response' field"),
    "grades": ({**RECORDS[1], "grades": {"harmless": [{"yes": 1.0}]}}, "must have an entry for each answer"),
    "one grade for several": ({**RECORDS[1], "grades": {"harmless": {"yes": 1.0}}}, "must have an entry for each answer"),
    "comparisons": ({**COMPARED[0], "models": ["base"]}, "must be as `cai eval compare` writes them"),
    "comparison": ({**COMPARED[0], "comparisons": {"harmless": {}}}, "must be as `cai eval compare` writes them"),
    "judged": ({**COMPARED[2], "judged": {}}, "'judged' has no 'p_correct'"),
    "turns": (
        {"prompt": "Hi", "chosen": [assistant("a"), user("b"), assistant("c")], "rejected": [assistant("a")]},
        "several messages",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records_are_named(here: Here, tmp_path: Path, name: str) -> None:
    record, message = BAD[name]
    source = write_jsonl(tmp_path / "in.jsonl", [record])
    err = here("export", "inspect", source, "-o", tmp_path / "out.json", code=2).err
    assert f"{source}:1: " in err.replace("\n", "")
    assert message in " ".join(err.split())
    assert not (tmp_path / "out.json").exists()


@pytest.mark.soak
def test_inspect_reads_the_log(here: Here, tmp_path: Path) -> None:
    inspect = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed; it has too many dependencies for a test")
    log_of(here, tmp_path, [*RECORDS, *COMPARED])
    [listed] = inspect.list_eval_logs(str(tmp_path / "logs"))
    header, whole = (inspect.read_eval_log(listed, header_only=only) for only in (True, False))
    assert header.results.total_samples == len(whole.samples) == 6
    assert whole.samples[0].output.completion == f"I can't help. {EVIL}"
    assert whole.samples[3].scores["harmless"].value == 0.25
