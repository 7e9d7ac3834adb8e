"""Packed weights give the products that torch gives."""

from __future__ import annotations

import pytest
import torch

from cai_cli.engines import models, packed


@pytest.mark.skipif(not models.has_bf16(), reason="this processor does not compute in bfloat16")
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_products_are_torchs(rows: int) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(48, 80, bias=bias, dtype=torch.bfloat16) for bias in (False, True)]
    model = torch.nn.ModuleList(layers)
    inputs = torch.randn(rows, 3, 48, dtype=torch.bfloat16)
    with torch.inference_mode():
        want = [layer(inputs) for layer in layers]
        packed.pack(model)
        assert all("forward" in vars(layer) for layer in layers)
        for found, expected in zip((layer(inputs) for layer in layers), want, strict=True):
            assert found.shape == expected.shape
            assert torch.allclose(found.float(), expected.float(), atol=0.02, rtol=0.02)
        layers[0].weight.zero_()
        packed.pack(model)  # the weights as they are now
        assert not layers[0](inputs).any()


def test_a_large_model_and_other_types_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "has_bf16", lambda: True)
    exact, large = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8, dtype=torch.bfloat16)
    packed.pack(exact)
    monkeypatch.setattr(models, "memory", lambda: 1000)
    packed.pack(large)
    assert "forward" not in vars(exact) | vars(large)
