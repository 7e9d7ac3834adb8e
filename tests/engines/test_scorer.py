"""The scorer: by default within 0.02 of float32, in batches of any size."""

from __future__ import annotations

import random
from pathlib import Path

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
