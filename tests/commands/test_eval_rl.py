"""`cai eval rl`: what RL changed in a model's answers, and over the steps of a run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cai_cli.data.jsonl import Record
from cai_cli.training import rl
from tests.conftest import Here
from tests.rows import read_jsonl, rl_prompts, write_jsonl
from tests.trainers import settings


def answers(path: Path, prefix: str, gain: float, scored: bool = True) -> str:
    """Forty answers. The score of record i rises by `gain`, and by i tenths."""
    rows = []
    for i in range(40):
        draw = random.Random(i)
        text = prefix + " ".join(f"w{draw.randrange(300)}" for _ in range(20))
        row: Record = {"id": f"q{i}", "prompt": [{"role": "user", "content": f"Question {i}?\x1b[2J"}], "response": text}
        rows.append(row | ({"scores": {"response": gain * (i - 20) / 10}} if scored else {}))
    return write_jsonl(path, rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of an RL run of 25 steps, whose answers lose their diversity."""
    folder, draw = tmp_path / "rl", random.Random(0)
    folder.mkdir()
    metrics: list[Record] = [{"step": 0, "eval_loss": 1.0}]
    for step in range(1, 26):
        measures = {"reward": step / 10, "kl": step / 1000, "length": 20.0, "refusals": 0.25, "boilerplate": None}
        metrics.append({"step": step, "loss": 0.1, **measures})
    samples = [
        {"step": step, "id": f"q{i}", "response": " ".join(f"w{draw.randrange(60 - 2 * step)}" for _ in range(20)), "reward": 1.0}
        for step in (1, 5, 10, 15, 20, 25)
        for i in range(8)
    ]
    write_jsonl(folder / "metrics.jsonl", metrics)
    write_jsonl(folder / "samples.jsonl", samples)
    return folder


def test_boilerplate_of_rl_and_the_answers_that_changed_are_shown(here: Here, tmp_path: Path) -> None:
    habit = "I'm sorry, but I can't help with that. "
    base, after = answers(tmp_path / "base.jsonl", "", 0), answers(tmp_path / "rl.jsonl", habit, 1.0)
    done = here("eval", "rl", f"base={base}", f"rl={after}", "--samples", 2, "-o", tmp_path / "rows.jsonl")
    rows = read_jsonl(tmp_path / "rows.jsonl")
    before, now = (row for row in rows if row["table"] == "answers")
    assert (before["refusals"]["value"], now["refusals"]["value"], now["boilerplate"]["value"]) == (0, 1, 1)
    assert now["words"]["value"] == before["words"]["value"] + 8
    assert now["self_bleu"] > before["self_bleu"] + 0.1
    phrases = [row for row in rows if row["table"] == "phrases"]
    assert phrases == [{"table": "phrases", "model": "rl", "phrase": habit.strip().lower(), "share": 1.0, "base": 0.0}]
    assert habit.strip().lower() in done.out
    changed = [row for row in rows if row["table"] == "changes"]
    assert [row["id"] for row in changed] == [f"q{i}" for i in reversed(range(40))]
    assert changed[0]["change"] == pytest.approx(1.9)
    shown = [line for line in done.out.splitlines() if line.startswith("q")]
    assert [line.split(":")[0] for line in shown] == ["q39", "q38", "q0", "q1"]
    assert shown[0] == "q39: +0.00 to +1.90 (+1.90)"
    assert "\\x1b[2J" in done.out
    assert "\x1b" not in done.out
    assert "no steps: give the directory of a run too" in done.err
    page = here("report", tmp_path, "--markdown").out
    assert "**rows.jsonl: phrases**" in page
    assert page.split("**rows.jsonl: changes**")[1].split("\n\n**")[0].count("| q") == 10  # of forty


def test_the_steps_of_a_run_are_shown_in_parts(here: Here, run: Path, tmp_path: Path) -> None:
    done = here("eval", "rl", run, "-o", tmp_path / "rows.jsonl")
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert [(row["first"], row["last"]) for row in rows] == [(i, min(i + 2, 25)) for i in range(1, 26, 3)]
    assert [row["samples"] for row in rows] == [8, 8, 0, 8, 8, 0, 8, 0, 8]
    assert rows[0]["reward"] == pytest.approx(0.2)
    assert rows[0]["boilerplate"] is None
    diverse = [row["distinct_2"] for row in rows if row["samples"]]
    assert diverse[-1] < diverse[0] - 0.2
    assert rows[2]["self_bleu"] is None
    assert "no comparison with a base" in done.err
    assert done.out.count("\n") == 11


def test_missing_parts_are_named_and_bad_ones_end_the_command(here: Here, run: Path, tmp_path: Path) -> None:
    unscored = answers(tmp_path / "sft.jsonl", "", 0, scored=False)
    base = answers(tmp_path / "base.jsonl", "", 0)
    assert "run `cai score` on the files of base and sft first" in here("eval", "rl", base, unscored, run).err
    (run / "samples.jsonl").unlink()
    assert f"{run}/samples.jsonl: not there" in here("eval", "rl", run).err
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 26, "reward": "high"}\n')
    assert f"{run}/metrics.jsonl:27: 'reward' must be a number" in here("eval", "rl", run, code=2).err
    write_jsonl(run / "metrics.jsonl", [{"step": 1, "loss": 0.5}])
    assert "holds no step of RL; give a directory that `cai rl` wrote" in here("eval", "rl", run, code=2).err
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"id": "q1", "prompt": "x"}])
    assert f"{bad}:1: no 'response' field" in here("eval", "rl", bad, code=2).err


def test_what_cai_rl_writes_is_read(here: Here, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(4))
    rl.train(settings("rl", [source], tiny, tmp_path / "rl", steps=3), rl.Rollout([tiny_pm], max_tokens=8, samples_every=1))
    here("eval", "rl", tmp_path / "rl", "-o", tmp_path / "rows.jsonl")
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert [row["first"] for row in rows] == [1, 2, 3]
    assert all(
        row["samples"] and None not in [row[name] for name in ("reward", "kl", "length", "refusals", "boilerplate")]
        for row in rows
    )
