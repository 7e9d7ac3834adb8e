"""Supervised fine-tuning: a model that loads, and packing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data.ids import read_with_ids
from cai_cli.training import sft
from tests.rows import read_jsonl, revisions, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_trains_a_model_that_loads(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    long = [{"id": f"long{i}", "prompt": "Hi", "response": "word " * 200} for i in range(12)]
    first = write_jsonl(tmp_path / "a.jsonl", revisions(6) + long)
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]
    trl = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "Hi", "completion": "Hello you."}, {"messages": messages}])
    files = [first, f"{trl}=2"]
    sft.train(settings("train-sft", files, tiny, tmp_path / "out", max_length=64, eval_fraction=0.2, save_every=2))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("skipped long") == 10
    assert "12 rows skipped" in printed.err

    out = tmp_path / "out"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"]["skipped"] == 12
    skipped = read_jsonl(out / "skipped.jsonl")
    assert [entry["line"] for entry in skipped] == list(range(7, 19))
    assert "--max-length" in skipped[0]["error"]
    trained = set((out / "trained-ids.txt").read_text().split())
    ids = {record["id"] for record in read_with_ids(trl)}
    assert trained < {f"s{i}" for i in range(6)} | ids  # without those that are held out for evaluation
    metrics = read_jsonl(out / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [0, 1, 2, 3]  # held-out rows are evaluated before the first step too
    assert set(metrics[0]) == {"step", "epoch", "eval_loss", "eval_token_accuracy", "eval_entropy"}
    assert "eval_loss" in metrics[-1]
    assert not (out / "checkpoints").exists()
    assert not (tmp_path / "out.partial").exists()

    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert tokenizer.chat_template
    chat = [{"role": "user", "content": "Hi"}]
    asked: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    assert model.generate(**asked, max_new_tokens=2).shape[1] > asked["input_ids"].shape[1]
    before = AutoModelForCausalLM.from_pretrained(tiny)
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True)]
    assert all(changed)
    assert (out / "model.safetensors").stat().st_mode & 0o400


def test_packed_examples_do_not_see_each_other(tiny: str, tmp_path: Path) -> None:
    """One row that holds all examples has the loss that they have one by one."""
    rows = revisions(6)
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    packed = settings("train-sft", [source], tiny, tmp_path / "packed", steps=1, batch_size=1, max_length=512)
    sft.train(packed, packing=True)
    sft.train(settings("train-sft", [source], tiny, tmp_path / "plain", steps=1, batch_size=12, grad_accum=1, max_length=512))
    (one,), (other,) = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("packed", "plain"))
    assert one["tokens"] == other["tokens"]
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
