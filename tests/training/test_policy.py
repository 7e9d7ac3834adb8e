"""The reward in RL: several preference models, a cap, penalties, and a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_cli.training import policy, rl
from cai_cli.training.shaping import Shaping
from tests import tiny as make
from tests.rows import read_jsonl, rl_prompts, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_several_preference_models_a_cap_and_a_stop(
    algo: str, tiny: str, tiny_pm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make.tiny_pm(tmp_path / "other", seed=5)
    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(6))
    held_out = write_jsonl(tmp_path / "eval.jsonl", [{"id": f"e{i}", "prompt": f"What is {i}?"} for i in range(3)])
    run = settings("rl", [source], tiny, tmp_path / "out", steps=40, lr=1e-2, eval=[held_out])
    shaping = Shaping(cap=0.3, length_penalty=1.0, eos_penalty=0.5)
    rollout = rl.Rollout(
        [tiny_pm, f"{other}=0.5"], algo, 0.05, 4, 8, shaping=shaping, samples_every=1, max_kl=0.05, stop_on_kl=True
    )
    rl.train(run, rollout)
    metrics = [line for line in read_jsonl(tmp_path / "out" / "metrics.jsonl") if "loss" in line]
    assert {"score", "reward", "kl", "entropy", "length", "refusals", "boilerplate", "empty", "unfinished"} <= set(metrics[0])
    assert "eval_reward" in read_jsonl(tmp_path / "out" / "metrics.jsonl")[0]
    samples = read_jsonl(tmp_path / "out" / "samples.jsonl")
    assert {entry["id"][0] for entry in samples} == {"q"}  # held-out prompts are evaluated, not written
    for entry in samples[:24]:
        assert entry["score"] == pytest.approx(entry["scores"][0] + 0.5 * entry["scores"][1], abs=1e-5)
        bad = 0.5 if not entry["finished"] or not any(c.isalnum() for c in entry["response"]) else 0
        assert entry["reward"] == pytest.approx(min(entry["score"], 0.3) - entry["tokens"] / 100 - bad, abs=1e-5)
    assert len(metrics) < 40
    assert metrics[-1]["kl"] > 0.05 >= metrics[-2]["kl"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "above --max-kl" in manifest["stopped"]
    assert [entry["weight"] for entry in manifest["pm"]] == [1.0, 0.5]
    run.quiet = False
    assert rl.train(run, rollout) is None
    assert f"already done: {run.output} (stopped at {manifest['stopped']}); --restart" in capsys.readouterr().err


def test_prompts_whose_answers_all_have_the_same_reward_are_counted() -> None:
    # a prompt with two rewards, one with equal ones, one with a single scored answer, one without any
    assert policy.no_signal([1.0, 2.0, 1.0, 1.0, None, 3.0, None, None], 2) == 0.75


def test_equal_rewards_are_warned_of_once(tiny: str, tiny_pm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(1))  # one prompt, twice in each step
    run = settings("rl", [source], tiny, tmp_path / "out", steps=5, quiet=False)
    rl.train(run, rl.Rollout([tiny_pm], max_tokens=4, shaping=Shaping(cap=-100.0)))
    assert [line["no_signal"] for line in read_jsonl(tmp_path / "out" / "metrics.jsonl")] == [1.0] * 5
    said = capsys.readouterr().err
    assert said.count("step 3: for 100% of the last prompts all answers have the same reward") == 1
    assert said.count("all answers have the same reward") == 1
    assert "no signal 100%" in said


def test_the_share_of_prompts_without_a_signal_is_logged(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    """A cap at the lowest score of the better prompt makes its rewards equal, and leaves those of the other different."""
    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(2))

    def train(name: str, cap: float | None) -> Path:
        run = settings("rl", [source], tiny, tmp_path / name, steps=1)
        rl.train(run, rl.Rollout([tiny_pm], num_generations=2, max_tokens=4, shaping=Shaping(cap=cap)))
        return tmp_path / name

    free = train("free", None)
    assert read_jsonl(free / "metrics.jsonl")[0]["no_signal"] == 0
    scores = [entry["score"] for entry in read_jsonl(free / "samples.jsonl")]
    capped = train("capped", max(min(scores[:2]), min(scores[2:])))
    assert read_jsonl(capped / "metrics.jsonl")[0]["no_signal"] == 0.5
