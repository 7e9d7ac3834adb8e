"""RL's answers are those of the policy as it is, in one process and in forks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cai_cli.engines import forks
from cai_cli.engines.base import Request
from cai_cli.engines.select import Setup
from cai_cli.errors import CaiError
from cai_cli.training import rl, rollouts
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
    assert after == rollouts.drawn(saved, requests) != before
    assert len({*map(tuple, after)}) == 8


def test_trls_own_ways_of_drawing_are_left_to_trl(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(3))
    options = settings("rl", [source], tiny, tmp_path / "out", steps=1, trl=["top_k=1"])
    trainer = rl.train(options, rl.Rollout([tiny_pm], max_tokens=8, num_generations=2))
    assert trainer.sampler is None
    answers = [line["response"] for line in read_jsonl(tmp_path / "out" / "samples.jsonl")]
    assert answers[0] == answers[1]  # always the most likely token


def test_forks_draw_as_one_process_does(tiny: str, tiny_pm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 the places in a batch change no token here. A few answers are drawn without forks."""
    source, start, started = write_jsonl(tmp_path / "in.jsonl", rl_prompts(4)), forks.start, list[str]()

    def noted(*given: Any) -> Any:
        started.append("")
        return start(*given)

    monkeypatch.setattr(forks, "start", noted)
    for name, few in (("alone", 16), ("forks", 2)):
        monkeypatch.setattr(rollouts, "FEW", few)
        monkeypatch.setattr(rollouts, "sampler", sampler)
        rl.train(settings("rl", [source], tiny, tmp_path / name, steps=2), rl.Rollout([tiny_pm], max_tokens=8))
        assert len(started) == (4 if name == "forks" else 0)  # two in each step
    alone, both = (read_jsonl(tmp_path / name / "samples.jsonl") for name in ("alone", "forks"))
    assert both == alone


def sampler(*given: Any) -> rollouts.Sampler:
    """A sampler that has two forks."""
    made = REAL(*given)
    assert made
    made.forks = 2
    return made


REAL = rollouts.sampler


def test_what_a_fork_computes_comes_back_in_order_and_its_errors_too() -> None:
    assert forks.spread(lambda part: [i * i for i in part], list(range(7)), 3) == [i * i for i in range(7)]
    assert forks.spread(lambda part: part, list[int](), 2) == []

    def fails(part: list[int]) -> list[int]:
        raise ValueError("no")

    def dies(part: list[int]) -> list[int]:
        os._exit(3)

    with pytest.raises(CaiError, match="unexpected ValueError: no"):
        forks.spread(fails, [1, 2], 2)
    with pytest.raises(CaiError, match="exit code 3"):
        forks.spread(dies, [1, 2], 2)
