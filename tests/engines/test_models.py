"""Model directories and dtypes: which type "auto" is, and where float32 is too large."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cai_cli.engines import models
from cai_cli.training.settings import precision


def a_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool, memory: int = 2**40) -> None:
    """Pretend that there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(models, "memory", lambda: memory)


def test_a_gpu_without_bf16_computes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, bf16=False)
    assert models.resolve_dtype("auto") is torch.float16
    assert precision("auto") == "float16"
    a_gpu(monkeypatch, bf16=True)
    assert models.resolve_dtype("auto") is torch.bfloat16
    assert precision("auto") == "bfloat16"
    assert models.resolve_dtype("float32") is torch.float32


def test_scores_are_float32_unless_memory_is_too_small(
    tiny: str, tiny_pm: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = Path(tiny), Path(tiny_pm)
    weights = sum(p.numel() for p in models_of(*folders))
    assert sum(map(models.parameters, folders)) == weights
    a_gpu(monkeypatch, bf16=True, memory=8 * weights)  # just twice what they take
    assert models.exact_dtype("auto", *folders) == "float32"
    assert not capfd.readouterr().err
    a_gpu(monkeypatch, bf16=True, memory=8 * weights - 1)
    assert models.exact_dtype("auto", *folders) == "bfloat16"
    assert "in which scores and probabilities are less exact; --dtype float32 insists" in capfd.readouterr().err
    assert models.exact_dtype("float32", *folders) == "float32"
    assert models.exact_dtype("auto", folders[0]) == "float32"


def models_of(language_model: Path, pm: Path) -> list[torch.nn.Parameter]:
    """All weights of both models, as transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    first = AutoModelForCausalLM.from_pretrained(language_model)
    second = AutoModelForSequenceClassification.from_pretrained(pm)
    return [*first.parameters(), *second.parameters()]
