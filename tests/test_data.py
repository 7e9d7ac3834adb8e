"""Data in and out: importers of each form, exports to TRL's columns, new prompts, statistics."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cai_cli.commands.prompts import Fresh, tidy
from cai_cli.commands.show import word_diff
from tests.conftest import Here
from tests.test_stage import EXACT, asks
from tests.tiny import read_jsonl, write_jsonl


def human(text: str, answer: str = "a") -> str:
    return f"\n\nHuman: {text}\n\nAssistant: {answer}"


def test_odd_pairs_are_kept_and_named_by_line(here: Here, tmp_path: Path) -> None:
    rows = [
        {"chosen": human("One?"), "rejected": human("One?", "")},
        {"chosen": "\n\nHuman: a" + human("b"), "rejected": "\n\nHuman: a" + human("b", "c")},
    ]
    out = tmp_path / "out.jsonl"
    err = here("import", "hh-rlhf", write_jsonl(tmp_path / "in.jsonl", rows), "-o", out).err
    assert "kept line 1: the answer of 'rejected' is empty" in err
    assert "kept line 2: a role comes twice in a row" in err
    assert [m["content"] for m in read_jsonl(out)[1]["prompt"]] == ["a", "b"]
    assert json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["counts"]["odd"] == 2


@pytest.mark.parametrize("form", ["array", "lines"])
def test_red_team_attempts_keep_their_rating_and_task(here: Here, tmp_path: Path, form: str) -> None:
    rows: list[Any] = [
        {"transcript": human("How: a\n\nb?") + human("And?"), "min_harmlessness_score_transcript": -2.8, "num_params": "52B",
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
    assert "set aside entry 2: not a transcript" in err
    assert "set aside entry 3: no 'transcript' text" in err
    assert [row["entry"] for row in read_jsonl(Path(f"{out}.rejected.jsonl"))] == [2, 3]


def test_tables_and_texts_are_read(here: Here, tmp_path: Path) -> None:
    table = tmp_path / "p.csv.gz"
    table.write_bytes(gzip.compress('\ufeffid,question\n1,"Why, ""so""?\nOr not?"\n2,\n3,How?\n1,Again?\n'.encode()))
    out = tmp_path / "out.jsonl"
    err = here("import", "csv", table, "--column", "question", "--kind", "x", "-o", out).err
    assert read_jsonl(out) == [
        {"id": "1", "kind": "x", "prompt": 'Why, "so"?\nOr not?'},
        {"id": "3", "kind": "x", "prompt": "How?"},
    ]
    assert "set aside line 4: 'prompt' is empty" in err
    assert "set aside line 6: the id '1' stands already on line 3" in err
    assert "no column 'prompt'; there are id, question: give --column" in here("import", "csv", table, code=2).err
    (tmp_path / "p.tsv").write_text("prompt\tn\nOne?\t1\n")
    assert [json.loads(line)["prompt"] for line in here("import", "tsv", tmp_path / "p.tsv").out.splitlines()] == ["One?"]
    (tmp_path / "p.txt").write_text("  One?  \n\nTwo?\nOne?\n")
    done = here("import", "text", tmp_path / "p.txt")
    assert [json.loads(line)["prompt"] for line in done.out.splitlines()] == ["One?", "Two?"]
    assert "1 repeated prompts left out" in done.err
    (tmp_path / "bad.txt").write_bytes(b"One?\n\xff\n")
    assert "bad.txt:2: not UTF-8" in here("import", "text", tmp_path / "bad.txt", code=2).err
    (tmp_path / "many.csv").write_text("id,prompt\n1,Hello, how are you?\n2,Hi\n")
    assert "set aside line 2: more fields than the header has" in here("import", "csv", tmp_path / "many.csv").err


@pytest.mark.parametrize("form", ["hh-rlhf", "red-team-attempts", "csv", "text"])
@pytest.mark.parametrize("data", [b"plain", gzip.compress(b"x" * 999)[:20]], ids=["not gzip", "cut off"])
def test_a_bad_gzip_file_is_named(here: Here, tmp_path: Path, form: str, data: bytes) -> None:
    (tmp_path / "x.gz").write_bytes(data)
    err = here("import", form, tmp_path / "x.gz", "-o", tmp_path / "out.jsonl", code=2).err
    assert "x.gz: not a complete gzip file" in err


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
    assert "no column 'x'; there are" in here("import", "dataset", tmp_path / "saved", "--column", "x", code=2).err


def revised() -> list[dict[str, Any]]:
    rounds = [
        {"principle": "honesty", "critique": "c", "revision": "First.", "flags": ["revision-unchanged"], "meta": {"revision": {"finish": "stop", "completion_tokens": 3}}},
        {"principle": "wisdom", "critique": "c", "revision": "Second.", "flags": ["critique-cut"], "meta": {"revision": {"finish": "length", "completion_tokens": 9}}},
    ]  # fmt: skip
    return [
        {"id": "a", "prompt": "Hello?", "response": "Hi.", "rounds": rounds},
        {"id": "b", "prompt": "You?", "response": "Me."},
    ]


def test_revisions_are_exported_and_flagged_ones_left_out_by_count(here: Here, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", revised())

    def exported(*options: object) -> list[str]:
        done = here("export", "sft", source, *options)
        rows = [json.loads(line) for line in done.out.splitlines()]
        return [row["completion"][0]["content"] for row in rows] + [done.err.strip().partition("; ")[2]]

    assert exported() == ["First.", "Second.", "Me.", ""]
    assert exported("--revisions", "last") == ["Second.", "Me.", ""]
    assert exported("--drop-flags", "unchanged") == ["Second.", "Me.", "1 rounds left out (revision-unchanged 1)"]
    assert exported("--drop-flags", "revision-cut") == ["First.", "Second.", "Me.", ""]
    assert exported("--drop-flags", "all")[:-1] == ["Me."]
    assert "no flag 'unchaned'" in here("export", "sft", source, "--drop-flags", "unchaned", code=2).err
    last = here("export", "sft", source, "--revisions", "last", "--drop-flags", "unchanged").out
    assert json.loads(last.splitlines()[0])["id"] == "a/2"
    [row, *_] = (json.loads(line) for line in here("export", "sft", source, "--form", "messages").out.splitlines())
    assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
    assert (row["id"], row["source_id"]) == ("a/1", "a")


def test_exports_load_in_trl(here: Here, tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl.data_utils import is_conversational

    here("export", "sft", write_jsonl(tmp_path / "in.jsonl", revised()), "-o", tmp_path / "sft.jsonl")
    data = load_dataset("json", data_files=str(tmp_path / "sft.jsonl"), split="train")
    assert is_conversational(data[0])
    pair = {"id": "a/0-1", "prompt": "Hello?", "chosen": [{"role": "assistant", "content": "Hi."}],
            "rejected": [{"role": "assistant", "content": "No."}], "p_chosen": 0.7, "label": {"pair": [0, 1]}}  # fmt: skip
    here("export", "preferences", write_jsonl(tmp_path / "p.jsonl", [pair]), "-o", tmp_path / "trl.jsonl")
    [row] = load_dataset("json", data_files=str(tmp_path / "trl.jsonl"), split="train")
    assert is_conversational(row)
    assert set(row) == {"id", "prompt", "chosen", "rejected", "p_chosen"}


def test_new_prompts_are_new_and_as_many_as_were_asked_for(here: Here, tiny: str, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", [{**row, "kind": "k"} for row in asks(12)]), tmp_path / "out.jsonl"
    here(
        "prompts",
        source,
        "-m",
        tiny,
        "--engine",
        "transformers",
        "--dtype",
        "float32",
        "--format",
        "hh",
        "--max-tokens",
        48,
        "-n",
        3,
        "-o",
        out,
    )
    rows = read_jsonl(out)
    assert len(rows) == 3
    assert len({row["prompt"] for row in rows}) == 3
    assert all(row["kind"] == "k" and len(set(row["seeds"])) == 5 for row in rows)
    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), key=lambda i: int(i.rpartition("-")[2]))
    [shown] = here("prompts", source, "-m", tiny, "--format", "hh", "--dry-run", 1).out.splitlines()
    assert json.loads(shown)["text"].count("\n\nHuman:") == 6
    few = write_jsonl(tmp_path / "few.jsonl", asks(3))
    assert "give at least 5" in here("prompts", few, "-m", tiny, code=2).err


def test_near_duplicates_are_told_from_new_prompts() -> None:
    sieve = Fresh(["How do I pick a lock at night?"], 2)
    assert "how do i pick a lock at night" in (sieve.reason({"prompt": "How do I pick the lock, at night"}) or "")
    assert sieve.reason({"prompt": "What is the safest way to cross a desert?"}) is None
    assert sieve.reason({"prompt": "what is the safest way to cross the desert"}) is not None
    assert not sieve.full
    assert sieve.reason({"prompt": "Tell me a joke."}) is None
    assert sieve.full
    assert tidy('- "How are you?"\n\nI hope this helps!') == "How are you?"
    assert tidy('Here is another message:\n\n1. Write a poem titled "Love"') == 'Write a poem titled "Love"'
    assert tidy("-5 degrees is how cold?") == "-5 degrees is how cold?"


def test_a_finished_run_of_new_prompts_that_was_killed_at_its_end_goes_on(
    here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cai_cli import outputs

    source, out = write_jsonl(tmp_path / "in.jsonl", asks(12)), tmp_path / "out.jsonl"
    command = ("prompts", source, "-m", tiny, *EXACT, "--format", "hh", "--max-tokens", 48, "-n", 3, "-o", out)
    with monkeypatch.context() as patch:
        patch.setattr(outputs.FileOutput, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        here(*command, code=130)
    assert len(read_jsonl(Path(f"{out}.partial"))) == 3
    here(*command)
    assert len(read_jsonl(out)) == 3


def test_statistics_count_what_is_there(here: Here, tmp_path: Path) -> None:
    out = here("stats", write_jsonl(tmp_path / "in.jsonl", revised())).out
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    assert out.startswith("2 records")
    assert lines["honesty"][1:] == ["1", "(100%)", "0", "(0%)", "1", "(50%)"]
    assert lines["revision-unchanged"][1:3] == ["1", "(100%)"]
    assert lines["revision 2"][-2:] == ["9", "100%"]
    two = [{"id": str(n), "prompt": "x", "response": "word " * n} for n in (1, 100)]
    out = here("stats", write_jsonl(tmp_path / "two.jsonl", two)).out
    assert next(line.split()[1:6] for line in out.splitlines() if line.startswith("response")) == ["2", "11", "50", "90", "100"]


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


def test_statistics_tell_where_a_file_came_from(here: Here, tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(3))
    here("sample", prompts, "-m", tiny, *EXACT, "-o", tmp_path / "r.jsonl")
    here("critique", tmp_path / "r.jsonl", "-m", tiny, *EXACT, "-o", tmp_path / "c.jsonl")
    tree = here("stats", tmp_path / "c.jsonl").out.split("\n\n")[-1]
    for part in ("c.jsonl  critique", "constitution default", "r.jsonl  sample", "p.jsonl  no manifest", f"{tiny}  model"):
        assert part in tree


def test_show_finds_what_is_asked_for(here: Here, tmp_path: Path) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl", [*revised(), *({"id": f"r{i}", "prompt": "x", "response": str(i)} for i in range(20))]
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
    assert "no record is like that" in here("show", source, "--grep", "zzz").err
    partly = {
        "id": "p",
        "prompt": "x",
        "response": "y",
        "rounds": revised()[0]["rounds"],
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


# Preferences by people, and mixes -----------------------------------------------------------------


def test_hh_rlhf_pairs_become_preferences(here: Here, tmp_path: Path) -> None:
    def talk(*turns: str) -> str:
        return "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {text}" for i, text in enumerate(turns))

    rows = [
        {"chosen": talk("How: are\n\nyou?", "Fine: thanks."), "rejected": talk("How: are\n\nyou?", "Go away.")},
        {"chosen": talk("Hi", ""), "rejected": talk("Hi", "Bye.")},
        {"chosen": talk("Hi", "Same."), "rejected": talk("Hi", "Same.")},
        {"chosen": talk("Hi", "A."), "rejected": talk("Hello", "A.")},
        {"chosen": talk("How: are\n\nyou?", "Well."), "rejected": talk("How: are\n\nyou?", "Go away.")},
    ]
    source = write_jsonl(tmp_path / "hh.jsonl", rows)
    done = here("import", "hh-rlhf", source, "--preferences", "--smoothing", 0.1, "--kind", "helpful", "-o", tmp_path / "out")
    got = read_jsonl(tmp_path / "out")
    assert [row["chosen"][0]["content"] for row in got] == ["Fine: thanks.", "Well."]
    assert got[0]["prompt"] == [{"role": "user", "content": "How: are\n\nyou?"}]
    assert {row["p_chosen"] for row in got} == {0.9}
    assert {row["kind"] for row in got} == {"helpful"}
    assert "2 preferences of 5 lines; 3 set aside" in done.err
    errors = [entry["error"] for entry in read_jsonl(tmp_path / "out.rejected.jsonl")]
    assert errors == [
        "the answer of 'chosen' is empty",
        "both answers are the same",
        "the prompts of 'chosen' and 'rejected' differ",
    ]
    assert "--smoothing is of preferences" in here("import", "hh-rlhf", source, "--smoothing", 0.1, code=2).err


def test_trls_forms_of_preferences_become_one(here: Here, tmp_path: Path) -> None:
    user, good, bad = (
        {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello."), ("assistant", "No."))
    )
    rows = [
        {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."},
        {"prompt": [user], "chosen": [good], "rejected": [bad], "p_chosen": 0.7, "source": "me"},
        {"prompt": "Hi", "chosen": [user, good], "rejected": [user, bad], "id": "mine"},
        {"chosen": "Hello.", "rejected": "No."},
    ]
    done = here("import", "preferences", write_jsonl(tmp_path / "in.jsonl", rows), "-o", tmp_path / "out")
    got = read_jsonl(tmp_path / "out")
    assert len(got) == 1, "three are the same preference"
    assert got[0] | {"id": ""} == {"id": "", "prompt": [user], "chosen": [good], "rejected": [bad], "p_chosen": 1.0}
    assert "2 repeated preferences left out; 1 set aside" in done.err
    here("import", "preferences", write_jsonl(tmp_path / "in.jsonl", rows[1:2]), "-o", tmp_path / "out")
    assert read_jsonl(tmp_path / "out")[0]["p_chosen"] == 0.7
    assert read_jsonl(tmp_path / "out")[0]["source"] == "me"


def test_files_are_mixed_by_weight_or_count_and_say_where_each_record_is_from(here: Here, tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", [{"id": f"r{i}", "prompt": f"One {i}?"} for i in range(40)])
    two = write_jsonl(tmp_path / "two.jsonl", [{"id": f"r{i}", "prompt": f"Two {i}?"} for i in range(20, 60)])
    here("mix", one, f"{two}=0.5", "-o", tmp_path / "out")
    got = read_jsonl(tmp_path / "out")
    assert Counter(row["mixed_from"] for row in got) == {"one": 40, "two": 20}
    assert len({row["id"] for row in got}) == 60
    assert [row["mixed_from"] for row in got] != sorted(row["mixed_from"] for row in got)  # shuffled
    shared = [row for row in got if ":" in row["id"]]
    assert all(row["id"] == f"{row['mixed_from']}:{row['source_id']}" for row in shared)
    here("mix", one, f"{two}=0.5", "-o", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "out").read_bytes()
    here("mix", one, f"{two}=0.5", "--seed", 1, "-o", tmp_path / "other")
    assert {row["prompt"] for row in read_jsonl(tmp_path / "other")} != {row["prompt"] for row in got}
    here("mix", f"{one}=3", f"{two}=5", "--count", "-o", tmp_path / "counted")
    assert Counter(row["mixed_from"] for row in read_jsonl(tmp_path / "counted")) == {"one": 3, "two": 5}
    here("mix", f"{one}=2", "-o", tmp_path / "twice")
    twice = read_jsonl(tmp_path / "twice")
    assert len({row["id"] for row in twice}) == 80
    assert {row.get("source_id", row["id"]) for row in twice} == {f"r{i}" for i in range(40)}
    here("mix", f"{tmp_path / 'twice'}=2", "-o", tmp_path / "four")
    assert len({row["id"] for row in read_jsonl(tmp_path / "four")}) == 160
    here("mix", one, f"{one}=1", "--count", "-o", tmp_path / "more")
    assert len(read_jsonl(tmp_path / "more")) == 41
    assert "has 40 records, of which 50 can't be taken" in here("mix", f"{one}=50", "--count", code=2).err
