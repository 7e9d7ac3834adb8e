"""`cai eval choice`: probabilities of the better answer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from cai_cli.commands.eval_choice import known_pair
from cai_cli.engines.transformers import TransformersEngine
from cai_cli.method import constitution, prompts
from cai_cli.method.prompts import OPTIONS
from cai_cli.method.tokens import Renderer
from tests.conftest import Here
from tests.engine_feed import by_number, feed
from tests.rows import read_jsonl, write_jsonl
from tests.tiny import TRANSFORMERS


def test_judgements_equal_a_plain_forward_pass(
    here: Here, real: Path, real_renderer: Renderer, shared: Path, tmp_path: Path
) -> None:
    """Five of the 438 questions: log probabilities of both options, in float32, to 1e-3."""
    rows = [json.loads(line) for line in (shared / "data/paper/438HHHEvaluations.jsonl").open()][40:45]
    renderer, engine = real_renderer, TransformersEngine(real, real_renderer.tokenizer, torch.float32, 4)
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    here("eval", "choice", source, *TRANSFORMERS, "-m", real, "--format", "hh", "--few-shot", 0, "--dtype", "float32", "--orders", "ab",
         "-o", tmp_path / "out")  # fmt: skip
    requests = []
    for row in rows:
        ids = renderer.tokenizer(f"{row['prompt']} (").input_ids
        with torch.no_grad():
            logprobs = torch.log_softmax(engine.model(torch.tensor([ids], device=engine.device)).logits[0, -1].float(), -1)
        letters = [renderer.tokenizer(f"({letter}").input_ids[-1] for letter in OPTIONS]
        requests.append({letter: float(logprobs[i]) for letter, i in zip(OPTIONS, letters, strict=True)})
    built = []
    for known in (found := [known_pair(row) for row in rows]):
        first, second = known.responses
        asked = prompts.comparison(known.prompt, first, second, constitution.Principle("x", compare=known.compare), "hh")
        built.append(renderer.choice(asked, OPTIONS))
    choices = by_number(engine.choose(feed(built)))
    for choice, want, row, q, judged in zip(choices, requests, rows, found, read_jsonl(tmp_path / "out"), strict=True):
        assert choice.logprobs == pytest.approx(want, abs=1e-3)
        assert OPTIONS[q.correct] == row["corrects"][0].strip(" ()")
        p = 1 / (1 + math.exp(want[OPTIONS[1 - q.correct]] - want[OPTIONS[q.correct]]))
        assert judged["judged"]["p_correct"] == pytest.approx(p, abs=1e-3)
