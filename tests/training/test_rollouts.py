"""RL's answers on a CPU are those of the policy as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_cli.engines.base import Request
from cai_cli.engines.select import Setup
from cai_cli.training import rl
from tests.engine_feed import by_number, feed
from tests.rows import read_jsonl, rl_prompts, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("lora", [False, True])
def test_answers_are_drawn_from_the_weights_of_the_step(lora: bool, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    """The saved model, which has the weights of the last step, draws what the sampler draws of it."""
    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(5))
    options = settings("rl", [source], tiny, tmp_path / "out", lr=0.02, steps=3, lora=lora, **({"lora_rank": 4} if lora else {}))
    trainer = rl.train(options, rl.Rollout([tiny_pm], max_tokens=8))
    requests = [Request("generate", [5 + i, 6, 7, 8], "", seed=i, max_tokens=16) for i in range(8)]
    sampler = trainer.sampler
    before = sampler.draw(requests)  # by the weights with which the last step's answers were drawn
    sampler.load(trainer.model)
    after = sampler.draw(requests)
    saved: Any = Setup("transformers", tmp_path / "out", "float32").open_one()
    saved.end_tokens = sampler.engine.end_tokens
    assert after == [list(done.tokens) for done in by_number(saved.run(feed(requests)))] != before
    assert len({*map(tuple, after)}) == 8


def test_trls_own_ways_of_drawing_are_left_to_trl(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(3))
    options = settings("rl", [source], tiny, tmp_path / "out", steps=1, trl=["top_k=1"])
    trainer = rl.train(options, rl.Rollout([tiny_pm], max_tokens=8, num_generations=2))
    assert trainer.sampler is None
    answers = [line["response"] for line in read_jsonl(tmp_path / "out" / "samples.jsonl")]
    assert answers[0] == answers[1]  # always the most likely token
