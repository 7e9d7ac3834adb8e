"""Other people's data: each form becomes prompts or preferences."""

from __future__ import annotations

import gzip
import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data.records import assistant, user
from tests.conftest import Here
from tests.rows import read_jsonl, turns, write_jsonl


@pytest.mark.parametrize("form", ["array", "lines"])
def test_red_team_attempts_keep_their_rating_and_task(here: Here, tmp_path: Path, form: str) -> None:
    rows: list[dict[str, Any]] = [
        {"transcript": turns("How: a\n\nb?") + turns("And?"), "min_harmlessness_score_transcript": -2.8, "num_params": "52B",
         "model_type": "context distillation", "rating": 4.0, "task_description": "Be bad", "task_descripton_harmlessness_score": 0.9,
         "red_team_member_id": 3, "is_upworker": True, "tags": None},
        {"transcript": "no turns"},
        {"rating": 1},
    ]  # fmt: skip
    text = json.dumps(rows, indent=1) if form == "array" else "".join(json.dumps(row) + "\n" for row in rows)
    path, out = tmp_path / "r.jsonl.gz", tmp_path / "out.jsonl"
    path.write_bytes(gzip.compress(text.encode()))
    err = here("import", "red-team-attempts", path, "-o", out).err
    [row] = read_jsonl(out)
    assert [m["content"] for m in row["prompt"]] == ["How: a\n\nb?", "a", "And?"]
    assert (row["rating"], row["task_description"]) == (4.0, "Be bad")
    assert "tags" not in row
    assert "skipped entry 2: not a transcript" in err
    assert "skipped entry 3: no 'transcript' text" in err
    assert [row["entry"] for row in read_jsonl(Path(f"{out}.skipped.jsonl"))] == [2, 3]


def test_tables_and_texts_are_read(here: Here, tmp_path: Path) -> None:
    table = tmp_path / "p.csv.gz"
    table.write_bytes(gzip.compress('\ufeffid,question\n1,"Why, ""so""?\nOr not?"\n2,\n3,How?\n1,Again?\n'.encode()))
    out = tmp_path / "out.jsonl"
    err = here("import", "csv", table, "--column", "question", "--kind", "x", "-o", out).err
    assert read_jsonl(out) == [
        {"id": "1", "kind": "x", "prompt": 'Why, "so"?\nOr not?'},
        {"id": "3", "kind": "x", "prompt": "How?"},
    ]
    assert "skipped line 4: 'prompt' is empty" in err
    assert "skipped line 6: duplicate id '1'; first seen on line 3" in err
    assert "no column 'prompt' (columns: id, question); name one with --column" in here("import", "csv", table, code=2).err
    (tmp_path / "p.tsv").write_text("prompt\tn\nOne?\t1\n")
    assert [json.loads(line)["prompt"] for line in here("import", "tsv", tmp_path / "p.tsv").out.splitlines()] == ["One?"]
    (tmp_path / "p.txt").write_text("  One?  \n\nTwo?\nOne?\n")
    done = here("import", "text", tmp_path / "p.txt")
    assert [json.loads(line)["prompt"] for line in done.out.splitlines()] == ["One?", "Two?"]
    assert "1 repeated prompt left out" in done.err
    (tmp_path / "bad.txt").write_bytes(b"One?\n\xff\n")
    assert "bad.txt:2: not UTF-8" in here("import", "text", tmp_path / "bad.txt", code=2).err
    (tmp_path / "many.csv").write_text("id,prompt\n1,Hello, how are you?\n2,Hi\n")
    assert "skipped line 2: more fields than the header has" in here("import", "csv", tmp_path / "many.csv").err


def test_saved_datasets_are_read(here: Here, tmp_path: Path) -> None:
    from datasets import Dataset

    chat = [[{"role": "user", "content": "One?"}], [{"role": "user", "content": "Two?"}]]
    data = Dataset.from_dict({"prompt": ["One?", "Two?"], "chat": chat})
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "data.parquet")
    for where in ("saved", "data.parquet"):
        shown = here("import", "dataset", tmp_path / where).out
        assert [json.loads(line)["prompt"] for line in shown.splitlines()] == ["One?", "Two?"]
    shown = here("import", "dataset", tmp_path / "saved", "--column", "chat").out
    assert json.loads(shown.splitlines()[1])["prompt"] == chat[1]
    assert (
        "no column 'x' (columns: prompt, chat); name one with --column"
        in here("import", "dataset", tmp_path / "saved", "--column", "x", code=2).err
    )


def test_a_column_of_a_dataset_that_json_cannot_hold_is_left_out_and_named(here: Here, tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [
        {"prompt": f"{i}?", "made": date(2026, 1, 2), "raw": b"x", "rating": rating} for i, rating in enumerate([0.5, math.nan])
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "d.parquet")
    done = here("import", "dataset", tmp_path / "d.parquet")
    got = [json.loads(line) for line in done.out.splitlines()]
    assert [{**row, "id": ""} for row in got] == [
        {"id": "", "prompt": "0?", "made": "2026-01-02", "rating": 0.5},
        {"id": "", "prompt": "1?", "made": "2026-01-02"},
    ]
    assert done.err.count("column 'raw' is left out where JSON cannot hold it (bytes)") == 1
    assert "'rating'" not in done.err


def test_hh_rlhf_pairs_become_preferences(here: Here, tmp_path: Path) -> None:
    rows = [
        {"chosen": turns("How: are\n\nyou?", "Fine: thanks."), "rejected": turns("How: are\n\nyou?", "Go away.")},
        {"chosen": turns("Hi", ""), "rejected": turns("Hi", "Bye.")},
        {"chosen": turns("Hi", "Same."), "rejected": turns("Hi", "Same.")},
        {"chosen": turns("Hi", "A."), "rejected": turns("Hello", "A.")},
        {"chosen": turns("How: are\n\nyou?", "Well."), "rejected": turns("How: are\n\nyou?", "Go away.")},
    ]
    source = write_jsonl(tmp_path / "hh.jsonl", rows)
    done = here(
        "import", "hh-rlhf", source, "--preferences", "--label-smoothing", 0.1, "--kind", "helpful", "-o", tmp_path / "out"
    )
    got = read_jsonl(tmp_path / "out")
    assert [row["chosen"][0]["content"] for row in got] == ["Fine: thanks.", "Well."]
    assert got[0]["prompt"] == [{"role": "user", "content": "How: are\n\nyou?"}]
    assert {row["p_chosen"] for row in got} == {0.9}
    assert {row["kind"] for row in got} == {"helpful"}
    assert "2 preferences of 5 lines; 3 skipped" in done.err
    errors = [entry["error"] for entry in read_jsonl(tmp_path / "out.skipped.jsonl")]
    assert errors == [
        "the answer of 'chosen' is empty",
        "both answers are the same",
        "the prompts of 'chosen' and 'rejected' differ",
    ]
    assert "--label-smoothing applies to preferences" in here("import", "hh-rlhf", source, "--label-smoothing", 0.1, code=2).err


def test_trls_forms_of_preferences_become_one(here: Here, tmp_path: Path) -> None:
    asked, good, bad = user("Hi"), assistant("Hello."), assistant("No.")
    rows: list[dict[str, Any]] = [
        {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."},
        {"prompt": [asked], "chosen": [good], "rejected": [bad], "p_chosen": 0.7, "source": "me"},
        {"prompt": "Hi", "chosen": [asked, good], "rejected": [asked, bad], "id": "mine"},
        {"chosen": "Hello.", "rejected": "No."},
    ]
    done = here("import", "preferences", write_jsonl(tmp_path / "in.jsonl", rows), "-o", tmp_path / "out")
    got = read_jsonl(tmp_path / "out")
    assert len(got) == 1, "three are the same preference"
    assert got[0] | {"id": ""} == {"id": "", "prompt": [asked], "chosen": [good], "rejected": [bad], "p_chosen": 1.0}
    assert "2 repeated preferences left out; 1 skipped" in done.err
    here("import", "preferences", write_jsonl(tmp_path / "in.jsonl", rows[1:2]), "-o", tmp_path / "out")
    assert read_jsonl(tmp_path / "out")[0]["p_chosen"] == 0.7
    assert read_jsonl(tmp_path / "out")[0]["source"] == "me"
    from datasets import Dataset

    talk = {"prompt": None, "chosen": [asked, good], "rejected": [asked, bad]}
    Dataset.from_list([talk, {**talk, "prompt": "Hi", "rejected": [asked, good]}]).to_parquet(tmp_path / "in.parquet")
    done = here("import", "preferences", tmp_path / "in.parquet", "-o", tmp_path / "out")
    assert [row["prompt"] for row in read_jsonl(tmp_path / "out")] == [[asked]]
    assert "skipped entry 2: both answers are the same" in done.err


def test_preferences_that_differ_in_one_answer_alone_are_two(here: Here, tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "chosen": chosen, "rejected": rejected} for chosen, rejected in (("A", "B"), ("A", "C"), ("D", "B"))]
    done = here("import", "preferences", write_jsonl(tmp_path / "in.jsonl", rows))
    got = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in got] == [("A", "B"), ("A", "C"), ("D", "B")]
    assert len({row["id"] for row in got}) == 3
