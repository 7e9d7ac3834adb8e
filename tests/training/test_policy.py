"""The reward in RL: several preference models, a cap, penalties, and a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_cli.training import rl
from cai_cli.training.shaping import Shaping
from tests import tiny as make
from tests.rows import read_jsonl, rl_prompts, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_several_preference_models_a_cap_and_a_stop(algo: str, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
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
