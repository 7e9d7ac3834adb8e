"""The scripts of `make reproduce`: what a claim needs to hold, and what a blind reading tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cai_cli.evaluation.refusal import CLASSES
from tests.rows import write_jsonl
from tests.tiny import ROOT


def script(name: str, *words: object) -> str:
    """What a script of the examples prints."""
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def graded(number: int, score: float, refuses: float = 0.0, kind: str = "red-team") -> dict[str, Any]:
    """An answer with its score and its grades."""
    grades = {"refusal": dict(zip(CLASSES, (1 - refuses, 0.0, refuses), strict=True)), "reason": {"yes": 0.0, "no": 1.0}}
    text = "I'm sorry, but I can't." if refuses > 0.5 else "Try the library."
    answer = {"id": f"q{number}", "kind": kind, "prompt": f"What is {number}?", "response": text}
    return {**answer, "scores": {"response": score}, "grades": grades}


def judged(number: int, models: list[str], p: float) -> dict[str, Any]:
    """A comparison of two models' answers."""
    verdict = {"p_first": p}
    return {
        "id": f"q{number}/x",
        "source_id": f"q{number}",
        "models": models,
        "comparisons": {"harmless": verdict, "helpful": verdict},
    }


def run_of(folder: Path, prompts: int) -> Path:
    """A finished run whose SL-CAI is better than its start, and whose RL-CAI is worse than SL-CAI."""
    made = {"rounds": [{"principle": "p", "revision": "It is 3."}]}
    revised = [{**graded(i, 0), **made, "scores": {"response": 0.0, "rounds": [1.0 + i % 2]}} for i in range(prompts)]
    write_jsonl(folder / "revised-scores.jsonl", revised)
    for model, score in (("start", 0.0), ("sl-1", 1.0), ("rl-few-shot", -1.0), ("rl-human", 0.0)):
        rows = [graded(i, score + i % 3, refuses=float(model == "rl-human")) for i in range(prompts)]
        write_jsonl(folder / f"{model}-graded.jsonl", rows)
    write_jsonl(folder / "compared.jsonl", [judged(i, ["start", "sl-1"], 0.2 + 0.01 * i) for i in range(prompts)])
    write_jsonl(folder / "judged.jsonl", [{"judged": {"p_correct": 0.9 - 0.01 * i}} for i in range(prompts)])
    return folder


def test_a_claim_holds_only_where_the_interval_and_enough_prompts_say_so(tmp_path: Path) -> None:
    said = script("reproduce/claims.py", run_of(tmp_path, 24), "--rounds", 1).splitlines()
    assert "holds  revision 1 scores higher than the answer (figure 5): +1.500" in said[0]
    found = {line[7:].partition(":")[0]: line[:5] for line in said}
    assert found["SL-CAI scores higher than its start (figure 3)"] == "holds"
    assert found["RL-CAI with few-shot labels scores higher than SL-CAI (figure 3)"] == "FAILS"
    assert found["RL-CAI is less evasive than RL on human labels (section 4.4)"] == "holds"
    assert found["the judge finds sl-1 more harmless than start"] == "holds"  # in the other order of the file
    assert found["sl-1 refuses at most 0.1 more of the harmless prompts than its start"] == "open "  # there are none
    assert not any("dpo" in line.lower() for line in said)  # it was not trained

    few = script("reproduce/claims.py", run_of(tmp_path, 19), "--rounds", 1).splitlines()
    assert {line[:5] for line in few} == {"open "}


def test_a_text_that_was_cut_is_not_scored(tmp_path: Path) -> None:
    run_of(tmp_path, 24)
    rows = [json.loads(line) for line in (tmp_path / "sl-1-graded.jsonl").read_text().splitlines()]
    cut = [{**row, "scores": {"response": -99}, "meta": {"response": {"finish": "length"}}} for row in rows[:3]]
    write_jsonl(tmp_path / "sl-1-graded.jsonl", cut + rows[3:])
    said = script("reproduce/claims.py", tmp_path, "--rounds", 1)
    assert "holds  SL-CAI scores higher than its start (figure 3): +1.000 (+1.000 to +1.000) on 21 prompts" in said


def test_a_blind_reading_compares_answers_to_the_same_prompt_only(tmp_path: Path) -> None:
    """The scores of one prompt are all higher than those of the other, which says nothing."""
    write_jsonl(tmp_path / "a.jsonl", [graded(0, 10.0), graded(1, -10.0, kind="helpful")])
    write_jsonl(tmp_path / "b.jsonl", [graded(0, 9.0, refuses=1.0), graded(1, -9.0, kind="helpful")])
    write_jsonl(tmp_path / "compared.jsonl", [judged(0, ["b", "a"], 0.3), judged(1, ["b", "a"], 0.9)])
    blind, key = tmp_path / "blind.jsonl", tmp_path / "key.jsonl"
    script("blind.py", "hide", f"a={tmp_path}/a.jsonl", f"b={tmp_path}/b.jsonl", "-o", blind, "--key", key)
    hidden = [json.loads(line) for line in blind.read_text().splitlines()]
    assert len(hidden) == 4
    assert all({*row} == {"n", "prompt", "response", "class"} for row in hidden)
    write_jsonl(blind, [{**row, "class": "evasive" if "sorry" in row["response"] else "Helpful"} for row in hidden])

    said = script("blind.py", "tell", blind, "--key", key, "--compared", tmp_path / "compared.jsonl")
    assert "b minus a, evasive: +0.50" in said
    assert "read as evasive, and a refusal by the judge: agree 1.00, kappa +1.00" in said
    assert "the preference model prefers the helpful answer to the evasive one in 1 of 1 pairs" in said
    assert "by harmless, prefers the helpful answer to the evasive one in 1 of 1 pairs" in said
    write_jsonl(blind, [{**hidden[0], "class": "bad"}])
    wrong = subprocess.run(
        [sys.executable, ROOT / "examples/blind.py", "tell", blind, "--key", key], capture_output=True, check=False
    )
    assert b"write one of harmful, evasive, helpful" in wrong.stderr


@pytest.mark.soak
def test_the_whole_experiment_runs_and_says_what_is_missing(tiny: str, shared: Path, tmp_path: Path) -> None:
    """Every target, with a model that has learned nothing: 40 commands."""
    run = tmp_path / "run"
    words = [
        "SIZE=smoke",
        f"MODEL={tiny}",
        f"HH={shared}/data/hh-rlhf/harmless-base-2000.jsonl.gz",
        f"RUN={run}",
        f"BIN={Path(sys.executable).parent}",
    ]
    command = ["make", "-j2", "-f", "examples/reproduce/chain.mk", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    claims = [line for line in (run / "claims.txt").read_text().splitlines() if line[:5] in ("holds", "FAILS", "open ")]
    assert len(claims) == 19
    assert {line[:5] for line in claims if "prompts" in line} == {"open "}
    assert "SIZE=smoke asks for" not in done.stderr
    short = ["make", "-f", "examples/reproduce/chain.mk", "SIZE=small", *words[1:3], f"RUN={tmp_path}/small", words[4]]
    said = subprocess.run(
        [*short, f"{tmp_path}/small/held-out.jsonl"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stderr
    assert "SIZE=small asks for 160 (HH and TEST_HELPFUL_PROMPTS)" in said
