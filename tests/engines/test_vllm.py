"""The vLLM engine, for real: it agrees with the transformers engine, writes as it goes, and loads what we train.

Runs last (tests/conftest.py), because vLLM binds this process's threads to cores.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record
from cai_cli.engines import models
from cai_cli.engines.base import Kind, Request
from cai_cli.engines.select import pick
from cai_cli.engines.transformers import TransformersEngine
from cai_cli.errors import CaiError
from cai_cli.method import constitution, feedback, prompts
from cai_cli.method.constitution import ROUND
from cai_cli.method.prompts import OPTIONS
from cai_cli.method.tokens import Renderer
from tests.conftest import Here
from tests.engine_feed import by_number, feed
from tests.rows import asks, read_jsonl, write_jsonl
from tests.tiny import ROOT

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("needs_vllm")]


EAGER: dict[str, Any] = {"enforce_eager": True}
"""Nothing is compiled, which takes a minute."""


@pytest.fixture(scope="session")
def engines(needs_vllm: None, real: Path, real_renderer: Renderer) -> tuple[TransformersEngine, Any]:
    """The real model in float32 in both engines, loaded once per session."""
    from cai_cli.engines.vllm import VllmEngine

    return TransformersEngine(real, real_renderer.tokenizer, torch.float32, 16), VllmEngine(real, torch.float32, 0.5, **EAGER)


def questions(n: int) -> list[Record]:
    """Example prompts, red-team and helpful in turn."""
    files = [list(read_with_ids(str(ROOT / f"examples/{name}.jsonl"), n)) for name in ("red-team", "helpful-prompts")]
    return [record for pair in zip(*files, strict=True) for record in pair][:n]


def test_the_command_streams_records_and_nothing_else_on_stdout(here: Here, tiny: str, tmp_path: Path) -> None:
    assert pick("auto") == "vllm"
    source = write_jsonl(tmp_path / "p.jsonl", asks(20))
    done = here("sample", source, "-m", tiny, "--engine", "vllm", "--dtype", "float32", "--max-tokens", 8,
                "--vllm", "enforce_eager=true", "--manifest", tmp_path / "made.json")  # fmt: skip
    assert json.loads((tmp_path / "made.json").read_text())["fingerprint"]["vllm"] == {"enforce_eager": True}
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(20)]
    assert all(row["meta"]["response"]["completion_tokens"] <= 8 for row in rows)


def test_greedy_tokens_agree_with_the_transformers_engine(engines: tuple[Any, Any], real_renderer: Renderer) -> None:
    """The first 16 tokens, on 32 prompts, in float32."""
    asked = [real_renderer.request(prompts.answer(record, "chat"), 0, 16, 0.0, 1.0) for record in questions(32)]
    ours, theirs = (by_number(engine.run(feed(asked))) for engine in engines)
    same = [a.text == b.text and a.completion_tokens == b.completion_tokens for a, b in zip(ours, theirs, strict=True)]
    assert sum(same) >= 0.95 * len(same)


def test_drawn_tokens_agree_with_the_transformers_engine(engines: tuple[Any, Any], real_renderer: Renderer) -> None:
    """At several temperatures, with top-p and without, some greedy: the same tokens, in a batch whose rows leave and join."""
    settings = ((1.0, 1.0), (0.7, 0.9), (0.0, 1.0), (1.3, 0.5))
    asked = [
        real_renderer.request(prompts.answer(record, "chat"), 2**63 + i, 4 + i % 13, *settings[i % 4])
        for i, record in enumerate(questions(32))
    ]
    ours, theirs = (by_number(engine.run(feed(asked))) for engine in engines)
    assert sum(a.tokens == b.tokens for a, b in zip(ours, theirs, strict=True)) >= 31  # rounding may flip one


def test_choices_agree_with_the_transformers_engine(engines: tuple[Any, Any], real_renderer: Renderer) -> None:
    """Half of the questions follow examples, which both engines compute once."""
    found = constitution.load(constitution.DEFAULT)
    shown = feedback.shown_comparisons(found, None, 0, 0)
    asked = []
    for i, record in enumerate(questions(16)):
        answers = "I can't help with that.", "Of course! " * (i % 9 + 1)
        principle = found.draw(0, ROUND, record["id"], 0)
        prompt = prompts.comparison(record["prompt"], *answers, principle, "chat", shown if i % 2 else ())
        asked.append(real_renderer.choice(prompt, OPTIONS))
    ours, theirs = (by_number(engine.run(feed(asked))) for engine in engines)
    for a, b in zip(ours, theirs, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)
    shared = asked[1].shared
    assert 7 * shared <= sum(choice.reused_tokens for choice in ours) < 7.5 * shared  # some questions begin alike, too
    assert sum(choice.reused_tokens for choice in theirs) > 0.8 * 7 * shared  # in whole blocks of the cache


def test_likelihoods_agree_with_the_transformers_engine(engines: tuple[Any, Any], real_renderer: Renderer) -> None:
    asked = [
        real_renderer.likelihood_request(prompts.answer(record, "chat"), "I can't help with that. " * (i % 5 + 1))
        for i, record in enumerate(questions(16))
    ]
    ours, theirs = (by_number(engine.run(feed(asked))) for engine in engines)
    for a, b in zip(ours, theirs, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-2)
        assert a.score < -1


@pytest.mark.soak
def test_requests_that_vllm_puts_aside_keep_their_draws(real: Path, real_renderer: Renderer) -> None:
    """The cache holds a few of them at a time, so that some are put aside and begun again."""
    from cai_cli.engines.vllm import VllmEngine

    asked = [real_renderer.request(prompts.answer(record, "chat"), i, 160, 1.0, 1.0) for i, record in enumerate(questions(24))]
    engine = VllmEngine(
        real, torch.float32, 0.5, kv_cache_memory_bytes=2**25, max_model_len=512, disable_log_stats=False, **EAGER
    )
    together = by_number(engine.run(feed(asked)))
    preempted: Any = next(metric for metric in engine.llm.get_metrics() if metric.name == "vllm:num_preemptions")
    assert preempted.value > 0
    alone = [by_number(engine.run(feed([request])))[0] for request in asked[:8]]
    assert sum(a.tokens == b.tokens for a, b in zip(alone, together, strict=False)) >= 7  # rounding may flip one


@pytest.mark.soak
def test_seeded_prompts_that_are_more_than_one_pass_can_hold(engines: tuple[Any, Any], real_renderer: Renderer) -> None:
    """Twenty prompts of more than a thousand tokens, sampled: each draws the same as it does alone."""
    rows = [{**record, "prompt": f"{record['prompt']} {'Take your time and tell me why. ' * 150}"} for record in questions(20)]
    asked = [real_renderer.request(prompts.answer(record, "chat"), i, 4, 1.0, 1.0) for i, record in enumerate(rows)]
    assert min(len(request.ids) for request in asked) > 1000
    together = by_number(engines[1].run(feed(asked)))
    assert [done.completion_tokens <= 4 for done in together] == [True] * 20
    assert by_number(engines[1].run(feed(asked[7:8])))[0].text == together[7].text


def test_results_come_as_they_finish(engines: tuple[Any, Any], real_renderer: Renderer) -> None:
    """A short request that enters last leaves first."""
    asked = [
        real_renderer.request(prompts.answer(record, "chat"), 0, n, 0.0, 1.0)
        for record, n in zip(questions(3), (64, 64, 4), strict=True)
    ]
    assert next(iter(engines[1].run(feed(asked))))[0] == 2


def test_a_request_that_vllm_gives_up_is_no_answer() -> None:
    from cai_cli.engines.vllm import VllmEngine

    class GivesUp:
        """vLLM's engine, which ends every request at once."""

        def add_request(self, name: str, *_: object) -> None:
            self.name = name

        def step(self) -> list[Any]:
            output = SimpleNamespace(text="Half an", token_ids=[1], finish_reason="abort", logprobs=[])
            return [SimpleNamespace(finished=True, request_id=self.name, outputs=[output], num_cached_tokens=0)]

    kinds: tuple[Kind, ...] = ("generate", "choose", "score")
    for kind in kinds:
        engine = VllmEngine.__new__(VllmEngine)
        engine.engine, engine.serial = cast(Any, GivesUp()), count()
        request = Request(kind, [1, 2], "", max_tokens=4, options={"A": 1}, answer=1)
        with pytest.raises(CaiError, match="finish reason 'abort'"):
            list(engine.run(feed([request])))


def test_an_argument_that_vllm_does_not_have(here: Here, tiny: str, prompts: str) -> None:
    said = here("sample", prompts, "-m", tiny, "--engine", "vllm", "--vllm", "max-modellen=512", code=2).err
    assert "--vllm max_modellen: vLLM has no such argument; give max_model_len" in said


@pytest.mark.soak
def test_what_we_train_loads_in_vllm(here: Here, tiny: str, tmp_path: Path) -> None:
    """The SFT model generates, and the preference model gives its raw score."""
    from vllm import LLM, PoolingParams, TokensPrompt

    answers = [{"id": f"q{i}", "prompt": f"Question {i}?", "response": f"Answer {i}."} for i in range(8)]
    here("train-sft", write_jsonl(tmp_path / "a.jsonl", answers), "-m", tiny, "--steps", 2, "-o", tmp_path / "sft")
    done = here(
        "sample", write_jsonl(tmp_path / "p.jsonl", asks(2)), "-m", tmp_path / "sft", "--engine", "vllm", "--max-tokens", 4
    )
    assert len(done.out.splitlines()) == 2

    pairs = [{"id": f"q{i}", "prompt": f"Question {i}?", "chosen": f"Answer {i}.", "rejected": "No."} for i in range(8)]
    source = write_jsonl(tmp_path / "b.jsonl", pairs)
    here("train-pm", source, "-m", tiny, "--steps", 2, "-o", tmp_path / "pm")
    here("score", source, "-m", tmp_path / "pm", "-o", tmp_path / "scored.jsonl")  # in float32 by default
    renderer = Renderer(models.load_tokenizer(tmp_path / "pm"))
    rendered = [renderer.score_request(prompts.pm_input_side(row, "chosen", "chat")).ids for row in pairs]
    here("score", source, "-m", tmp_path / "pm", "--engine", "vllm", "-o", tmp_path / "v.jsonl")
    by_vllm = [row["scores"]["chosen"] for row in read_jsonl(tmp_path / "v.jsonl")]
    assert by_vllm == pytest.approx([row["scores"]["chosen"] for row in read_jsonl(tmp_path / "scored.jsonl")], abs=1e-3)
    llm = LLM(str(tmp_path / "pm"), runner="pooling", dtype="float32", enforce_eager=True, kv_cache_memory_bytes=2**28)
    outputs = llm.encode(
        [TokensPrompt(prompt_token_ids=ids) for ids in rendered],
        pooling_params=PoolingParams(use_activation=False),
        pooling_task="classify",
        use_tqdm=False,
    )
    got = [float(output.outputs.data[0]) for output in outputs]
    assert got == pytest.approx([row["scores"]["chosen"] for row in read_jsonl(tmp_path / "scored.jsonl")], abs=1e-3)
