"""The commands around the method: import, split, score, eval, show, report, constitutions."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cai_cli import constitution, records, transcripts
from cai_cli.errors import InputError
from cai_cli.evaluation.intervals import mean_interval
from tests.conftest import Here
from tests.test_stage import asks
from tests.tiny import ROOT, read_jsonl, write_jsonl


def pair(question: str, chosen: str, rejected: str) -> dict[str, str]:
    return {
        "chosen": f"\n\nHuman: {question}\n\nAssistant: {chosen}",
        "rejected": f"\n\nHuman: {question}\n\nAssistant: {rejected}",
    }


def test_hh_pairs_become_prompts_and_odd_ones_are_named(here: Here, tmp_path: Path) -> None:
    long = {
        side: f"\n\nHuman: Note: a\n\nb\n\nAssistant: yes: c\n\nHuman: and?\n\nAssistant: {side}"
        for side in ("chosen", "rejected")
    }
    rows = [
        pair("One?", "a", "b"),
        long,
        pair("One?", "c", "d"),
        {"chosen": "\n\nHuman: x\n\nAssistant: y", "rejected": "\n\nHuman: z\n\nAssistant: y"},
    ]
    rows += [
        {"chosen": "text", "rejected": "text"},
        {"chosen": "\n\nHuman: x\n\nAssistant:", "rejected": "\n\nHuman: x\n\nAssistant: y"},
    ]
    path = tmp_path / "hh.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    out = tmp_path / "prompts.jsonl"
    done = here("import", "hh-rlhf", path, "--kind", "red-team", "-o", out)
    got = read_jsonl(out)
    assert [row["prompt"][-1]["content"] for row in got] == ["One?", "and?", "x"]
    assert got[1]["prompt"][0]["content"] == "Note: a\n\nb"
    assert got[1]["prompt"][1]["content"] == "yes: c"
    assert {row["kind"] for row in got} == {"red-team"}
    assert "set aside line 4: the prompts of 'chosen' and 'rejected' differ" in done.err
    assert "set aside line 5: not a transcript" in done.err
    assert "3 prompts of 6 lines; 1 repeated prompts left out; 2 set aside" in done.err
    assert json.loads((tmp_path / "prompts.jsonl.manifest.json").read_text())["counts"]["set_aside"] == 2
    other = write_jsonl(tmp_path / "other.jsonl", asks(3))
    assert "is it another form of data?" in here("import", "hh-rlhf", other, code=2).err


def test_the_real_hh_rlhf_file_is_imported(here: Here, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "prompts.jsonl"
    here("import", "hh-rlhf", shared / "data/hh-rlhf/harmless-base-2000.jsonl.gz", "-o", out)
    rows = read_jsonl(out)
    assert len(rows) == 1994
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["prompt"][-1]["role"] == "user" for row in rows)


def test_messages_keep_repeated_roles_and_empty_turns() -> None:
    assert transcripts.messages("\n\nHuman: a\n\nHuman: b\n\nAssistant:") == [
        {"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": ""},
    ]  # fmt: skip


def test_a_record_stays_on_its_side_of_a_split(here: Here, tmp_path: Path) -> None:
    rows = asks(300)
    source, a, b = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    here("split", source, "--fraction", 0.2, "-o", a, "--rest", b)
    held, rest = read_jsonl(a), read_jsonl(b)
    assert sorted(row["id"] for row in held + rest) == sorted(row["id"] for row in rows)
    assert 40 <= len(held) <= 80
    assert [r for r in rows if r in held] == held  # in input order
    random.Random(0).shuffle(rows)
    write_jsonl(Path(source), [*rows, {"id": "new", "prompt": "new?"}])
    again = here("split", source, "--fraction", 0.2).out
    assert {json.loads(line)["id"] for line in again.splitlines()} - {"new"} == {row["id"] for row in held}


def test_scores_equal_a_plain_forward_pass(here: Here, tiny_pm: str, tmp_path: Path) -> None:
    """Every text of every kind of record, in batches of unequal lengths, against transformers one by one."""
    question = [{"role": "user", "content": "Hello?"}]
    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": "Hello?", "response": "Hi.", "rounds": [{"principle": "p", "critique": "c", "revision": "Good day to you, dear human."}]},
        {"id": "b", "prompt": "Hello?", "responses": ["One", "The capital of France is Paris, and this is long.", "x"]},
        {"id": "c", "prompt": question, "chosen": [{"role": "assistant", "content": "Yes"}], "rejected": [{"role": "assistant", "content": "No"}], "p_chosen": 0.7},
        {"id": "d", "chosen": [*question, {"role": "assistant", "content": "Yes"}], "rejected": [*question, {"role": "assistant", "content": "No"}]},
    ]  # fmt: skip
    out = tmp_path / "out.jsonl"
    here("score", write_jsonl(tmp_path / "in.jsonl", rows), "-m", tiny_pm, "--dtype", "float32", "-o", out)
    a, b, c, d = (row["scores"] for row in read_jsonl(out))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_pm, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_pm)

    def plain(answer: str) -> float:
        chat = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": answer}], return_dict=False)
        with torch.no_grad():
            return float(model(torch.tensor([chat])).logits[0, 0])

    assert a == {
        "response": pytest.approx(plain("Hi."), abs=1e-3),
        "rounds": [pytest.approx(plain("Good day to you, dear human."), abs=1e-3)],
    }
    assert b["responses"] == pytest.approx([plain(text) for text in rows[1]["responses"]], abs=1e-3)
    want = {"chosen": pytest.approx(plain("Yes"), abs=1e-3), "rejected": pytest.approx(plain("No"), abs=1e-3)}
    assert c == want
    assert d == want
    assert read_jsonl(out)[2] == {**rows[2], "scores": c}


def test_what_cannot_be_scored_says_so(here: Here, tiny_pm: str, tmp_path: Path) -> None:
    def refused(record: dict[str, Any]) -> str:
        return here("score", write_jsonl(tmp_path / "in.jsonl", [record]), "-m", tiny_pm, code=2).err

    turn = [{"role": "assistant", "content": "Yes"}]
    assert "nothing to score" in refused(asks(1)[0])
    assert "no 'prompt' field" in refused({"id": "a", "chosen": turn, "rejected": turn, "response": "Hi."})
    assert "'responses[0]' must be a string" in refused({"id": "a", "prompt": "x", "response": "y", "responses": [3]})


def scored(path: Path, shift: float) -> str:
    draw = random.Random(3)
    rows = [{"id": f"q{i}", "kind": "ab"[i % 2], "scores": {"response": draw.gauss(0, 1) + shift * (i % 2)}} for i in range(40)]
    return write_jsonl(path, [{**row, "prompt": "x", "response": "y"} for row in rows])


def test_models_are_compared_on_the_same_prompts(here: Here, tmp_path: Path) -> None:
    base, better = scored(tmp_path / "base.jsonl", 0), scored(tmp_path / "better.jsonl", 0.5)
    shown = here("eval", "scores", f"base={base}", f"better={better}", "--by", "kind", "-o", tmp_path / "rows.jsonl").out
    rows = {(row["group"], row["model"]): row for row in read_jsonl(tmp_path / "rows.jsonl")}
    assert rows["a", "better"]["difference"] == 0
    assert rows["b", "better"]["difference"] == pytest.approx(0.5)  # paired: the same for each record, so no spread
    assert rows["b", "better"]["difference_low"] == pytest.approx(0.5)
    assert rows["b", "base"]["low"] < rows["b", "base"]["mean"] < rows["b", "base"]["high"]
    assert rows["a", "base"]["records"] == 20
    assert "+0.50 to +0.50" in shown
    assert "write NAME=FILE" in here("eval", "scores", base, code=2).err
    fewer = write_jsonl(tmp_path / "fewer.jsonl", read_jsonl(base)[:30])
    assert "10 records are not in every file, and are left out" in here("eval", "scores", f"base={base}", f"few={fewer}").err
    unscored = write_jsonl(tmp_path / "raw.jsonl", [{**asks(1)[0], "scores": None}])
    assert "run `cai score` on it first" in here("eval", "scores", f"a={unscored}", code=2).err


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    draw = random.Random(0)
    hits = 0
    for seed in range(200):
        _, low, high = mean_interval([draw.gauss(1, 2) for _ in range(50)], seed)
        hits += low <= 1 <= high
    assert 180 <= hits <= 199


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


def test_report_tabulates_the_manifests(here: Here, tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(3))
    here("sample", prompts, "-m", tiny, "--engine", "transformers", "--max-tokens", 4, "-o", tmp_path / "answers.jsonl")
    out = here("report", tmp_path).out
    assert out.splitlines()[1].split()[:4] == ["answers.jsonl", "sample", "3", "3"]
    assert "no step has left a manifest there" in here("report", ROOT / "examples", code=2).err


BAD_CONSTITUTIONS = {
    "principles: 3": "principles",
    "name: x\nprinciples: []": "principles",
    "name: x\nprinciples:\n- {id: a, critique: c}\n- {id: a, critique: d}": "'a'",
    "name: x\nprinciples:\n- {id: a, critique: 3}": "critique",
    "name: x\nprinciples:\n- {id: a, critic: c}": "critic",
    "name: [": "YAML",
}


@pytest.mark.parametrize("text", BAD_CONSTITUTIONS)
def test_a_bad_constitution_says_what_is_wrong_with_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=BAD_CONSTITUTIONS[text]) as problem:
        constitution.load(str(path))
    assert "c.yaml" in str(problem.value)


def test_a_command_says_which_text_a_principle_lacks(here: Here, tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x\nprinciples:\n- {id: a, critique: Say so.}\n")
    answers = write_jsonl(
        tmp_path / "r.jsonl",
        [{"id": "q", "prompt": "Hello?", "response": "Hi.", "rounds": [{"principle": "a", "critique": "c"}]}],
    )
    err = here("revise", answers, "-m", tiny, "-c", path, code=2).err
    assert "'a'" in err
    assert "revision" in err
    assert "has no principle 'b'" in here(
        "revise", write_jsonl(tmp_path / "r2.jsonl", [{"id": "q", "prompt": "Hello?", "response": "Hi.", "rounds": [{"principle": "b", "critique": "c"}]}]),
        "-m", tiny, code=2,
    ).err  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"), [("red-team", "red-team"), ("harmless", "harmless"), ("helpful-comparisons", "harmless")]
)
def test_the_example_files_are_sound(name: str, kind: str) -> None:
    rows = list(records.read_with_ids(str(ROOT / f"examples/{name}.jsonl")))
    assert len(rows) >= 64
    check = records.preference_error if name == "helpful-comparisons" else records.prompt_error
    assert [check(row) for row in rows] == [None] * len(rows)
    assert {row.get("kind") for row in rows} == {kind}
