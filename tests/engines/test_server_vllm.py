"""The server engine against a real `vllm serve`, killed and started again during a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cai_cli.engines.base import Request
from cai_cli.engines.server import ServerEngine
from cai_cli.engines.transformers import TransformersEngine
from cai_cli.method import constitution, feedback, prompts
from cai_cli.method.constitution import ROUND
from cai_cli.method.prompts import OPTIONS
from cai_cli.method.tokens import Renderer
from tests.engine_feed import by_number, feed
from tests.engines.test_vllm import questions
from tests.processes import cai, count_lines, start, wait_for_lines
from tests.rows import pair, read_jsonl, write_jsonl
from tests.servers import Process, free_port

pytest.importorskip("openai", reason="needs the extra `server`")
pytestmark = [pytest.mark.soak, pytest.mark.vllm, pytest.mark.real, pytest.mark.usefixtures("needs_vllm")]


DRAWS = ("--logits-processors", "cai_cli.engines.vllm_draws:Draws")


@pytest.fixture(scope="module")
def vllm(needs_vllm: None, real: Path) -> Iterator[Process]:
    """What `vllm serve` runs: the CPU build lacks that command's own metadata."""
    port = free_port()
    server = sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)
    flags = "--model", str(real), "--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", *DRAWS
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_USE_AOT_COMPILE": "0"}
    made = Process(*server, *flags, port=port, seconds=600, **settings)
    made.start()
    yield made
    made.kill()


def asked(renderer: Renderer) -> list[Request]:
    """24 texts, half of them greedy, 24 choices, half of them after few-shot examples, and 8 likelihoods."""
    found = constitution.load(constitution.DEFAULT)
    shown = feedback.shown_comparisons(found, None, 0, 0)
    made = [renderer.request(prompts.answer(record, "chat"), i, 16, i % 2, 0.9) for i, record in enumerate(questions(24))]
    for i, record in enumerate(questions(24)):
        answers = "I can't help with that.", "Of course! " * (i % 9 + 1)
        principle = found.draw(0, ROUND, record["id"], 0)
        prompt = prompts.comparison(record["prompt"], *answers, principle, "chat", shown if i % 2 else ())
        made.append(renderer.choice(prompt, OPTIONS))
    for i, record in enumerate(questions(8)):
        made.append(renderer.likelihood_request(prompts.answer(record, "chat"), "I can't help with that. " * (i % 5 + 1)))
    return made


def test_texts_letters_and_likelihoods_agree_with_the_transformers_engine(
    vllm: Process, real: Path, real_renderer: Renderer
) -> None:
    requests = asked(real_renderer)
    ours: list[Any] = by_number(TransformersEngine(real, real_renderer.tokenizer, torch.float32, 8).run(feed(requests)))
    engine = ServerEngine([vllm.url], str(real), real)
    assert (engine.prompts, engine.context) == ("tokens", 4096)
    assert all(server.can and server.can.exact and server.can.echo and server.can.draws for server in engine.servers)
    theirs: list[Any] = by_number(engine.run(feed(requests)))
    assert [r.tokens for r in theirs[:24]] == [r.tokens for r in ours[:24]]
    assert [r.text for r in theirs[:24]] == [r.text for r in ours[:24]]
    for a, b in zip(ours[24:48], theirs[24:48], strict=True):
        assert b.logprobs == pytest.approx(a.logprobs, abs=1e-3)
    assert [r.score for r in theirs[48:]] == pytest.approx([r.score for r in ours[48:]], abs=1e-2)


def test_a_killed_server_costs_nothing(vllm: Process, real: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "pairs.jsonl", [pair(i) for i in range(60)])
    flags = "-m", real, "--engine", "server", "--base-url", vllm.url
    whole, out = tmp_path / "whole.jsonl", tmp_path / "labels.jsonl"
    cai("label", source, *flags, "-o", whole)
    run = start("label", source, *flags, "-o", out)
    wait_for_lines(Path(f"{out}.partial"), 1, run)
    vllm.kill()
    assert count_lines(Path(f"{out}.partial")) < 60
    vllm.start()
    said = run.communicate(timeout=600)[1]
    assert run.returncode == 0, said
    assert said.count("does not answer") == said.count("answers again") == 1
    assert not Path(f"{out}.skipped.jsonl").exists()
    found, expected = ({row["id"]: row["label"]["p_first"] for row in read_jsonl(path)} for path in (out, whole))
    assert found == pytest.approx(expected, abs=1e-3)
    assert "letters_outside" not in json.loads(Path(f"{out}.manifest.json").read_text())["summary"]
