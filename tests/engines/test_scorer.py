"""The scorer: by default within 0.02 of float32, in batches of any size."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from cai_cli.engines import models
from cai_cli.engines.scorer import PreferenceModel
from tests.tiny import tiny_pm


@pytest.mark.usefixtures("one_thread")
def test_scores_are_those_of_float32_in_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor that has bf16, in which scores of this model are wrong by more than 0.02."""
    monkeypatch.setattr(models, "has_bf16", lambda: True)
    folder = Path(tiny_pm(tmp_path / "pm", hidden=64, layers=4))
    draw = random.Random(2)
    rows = [[draw.randint(10, 380) for _ in range(draw.randint(1, 90))] for _ in range(33)]
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        want = [float(model(torch.tensor([row])).logits[0, 0]) for row in rows]
    for size in (1, 8, 32):
        assert PreferenceModel(folder, batch_size=size).score_ids(rows) == pytest.approx(want, abs=1e-4)
    coarse = PreferenceModel(folder, "bfloat16").score_ids(rows)
    assert max(abs(a - b) for a, b in zip(coarse, want, strict=True)) > 0.02


@pytest.mark.usefixtures("one_thread")
def test_conversations_that_begin_alike_are_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four answers of each of three prompts, beside a conversation alone: fewer tokens are computed, for the same scores."""
    folder = Path(tiny_pm(tmp_path / "pm", hidden=64, layers=4))
    draw = random.Random(3)

    def some(count: int) -> list[int]:
        return [draw.randint(10, 380) for _ in range(count)]

    rows = [prompt + some(5 + i) for prompt in (some(30), some(20), some(25)) for i in range(4)] + [some(28)]
    draw.shuffle(rows)
    scorer = PreferenceModel(folder)
    want = [PreferenceModel(folder, batch_size=1).score_ids([row])[0] for row in rows]
    forward, computed = scorer.model.base_model.forward, list[int]()

    def counted(*args: Any, **more: Any) -> Any:
        computed.append(len(more["input_ids"]))
        return forward(*args, **more)

    monkeypatch.setattr(scorer.model.base_model, "forward", counted)
    assert scorer.score_ids(rows) == pytest.approx(want, abs=1e-4)
    assert computed[-1] == 4
    assert scorer.joins
