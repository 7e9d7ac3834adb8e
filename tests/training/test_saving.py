"""The saved weights: their type, what rounding loses, and adapters beside a base in 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cai_cli.errors import InputError
from cai_cli.training import dpo, pm, sft
from tests.rows import preferences, read_jsonl, revisions, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")
LOST = "of what training changed is lost in bfloat16; --save-dtype float32 keeps it"


def test_weights_are_saved_in_bfloat16_unless_float32_is_asked_for(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", revisions(8))

    def weights(name: str, **more: Any) -> dict[str, torch.Tensor]:
        sft.train(settings("train-sft", [source], tiny, tmp_path / name, **more))
        return load_file(tmp_path / name / "model.safetensors")

    full, rounded = weights("full", lr=1e-2), weights("rounded", lr=1e-2, save_dtype="bfloat16")
    assert {value.dtype for value in full.values()} == {torch.float32}
    assert full.keys() == rounded.keys()
    assert all(torch.equal(rounded[name], full[name].bfloat16()) for name in full)
    assert LOST not in capsys.readouterr().err  # the tiny model's weights are float32, so nothing rounds back


@pytest.mark.parametrize("lora", [False, True])
def test_a_change_that_rounding_removes_is_reported(
    lora: bool, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, start = write_jsonl(tmp_path / "in.jsonl", revisions(8)), tmp_path / "start"
    sft.train(settings("train-sft", [source], tiny, start, save_dtype="bfloat16"))
    assert LOST not in capsys.readouterr().err
    for lr, warned in ((1e-6, True), (3e-1, False)):
        run = settings("train-sft", [source], start, tmp_path / f"{lr}", lr=lr, steps=2, save_dtype="bfloat16", lora=lora)
        sft.train(run)
        assert (LOST in capsys.readouterr().err) == warned, lr


def test_the_base_of_an_adapter_is_in_the_type_of_the_computation(tiny: str, tmp_path: Path) -> None:
    """Its adapters are float32, and the merged model is the base plus their product."""
    source = write_jsonl(tmp_path / "in.jsonl", preferences())
    run = settings("train-pm", [source], tiny, tmp_path / "out", lora=True, dtype="bfloat16", lr=1e-2)
    kinds = {(weight.requires_grad, weight.dtype) for weight in pm.train(run).model.parameters()}
    assert kinds == {(False, torch.bfloat16), (True, torch.float32)}
    merged, base = load_file(tmp_path / "out" / "model.safetensors"), load_file(Path(tiny) / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    assert merged[name].dtype == torch.float32
    assert not torch.equal(merged[name], base[name])
    with pytest.raises(InputError, match="--load-in-4bit needs --lora"):
        pm.train(settings("train-pm", [source], tiny, tmp_path / "out2", load_in_4bit=True))


def test_the_starting_models_probabilities_can_be_computed_before_training(tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", preferences())

    def losses(name: str, precompute_ref: bool) -> list[tuple[float, float]]:
        run = settings("train-dpo", [source], tiny, tmp_path / name, eval_fraction=0.3)
        trainer = dpo.train(run, precompute_ref=precompute_ref)
        assert (trainer.ref_model is None) == precompute_ref
        lines = read_jsonl(tmp_path / name / "metrics.jsonl")
        return [line.get(key, 0.0) for line in lines for key in ("loss", "eval_loss", "margin")]

    assert losses("before", True) == pytest.approx(losses("during", False), abs=1e-5)
