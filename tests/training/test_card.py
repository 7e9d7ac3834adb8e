"""The model card and the plot beside a trained model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Here
from tests.rows import preference, write_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_directory_documents_its_training_data(
    here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model card, a plot, a report and hashes; a file's name is text, not markup."""
    monkeypatch.delenv("COLUMNS")
    odd = tmp_path / "a|b<script>`.jsonl"
    source = write_jsonl(odd, [preference(i, 0.9, chosen="It is very good. " * (1 + i % 5)) for i in range(20)])
    flags = ("--steps", 3, "--eval-fraction", 0.3, "--dtype", "float32", "--lr", 1e-3)
    lines = here("train-pm", f"{source}=2", "-m", tiny, "-o", tmp_path / "out", *flags).err.splitlines()
    # standard error is no terminal, so no line is wrapped
    assert any(line.startswith("the better answer is longer ") and "to" in line for line in lines)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "<script>" not in card
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert "library_name: transformers" in head
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["inputs"][0]["sha256"][:16] in body
    assert "| 20 | 2 |" in body
    assert "eval_loss" in body
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")
    groups = [row["group"] for row in manifest["evaluation"]["pairs"]]
    assert groups[0] == "all"
    assert "the better answer is longer" in groups


def test_the_card_names_the_constitution_behind_the_data(here: Here, tiny: str, tmp_path: Path) -> None:
    """Of the labels that the model is trained on, and of those that its preference model was trained on."""
    pairs = write_jsonl(
        tmp_path / "pairs.jsonl", [{"id": str(i), "prompt": "Why?", "responses": ["Yes.", "No."]} for i in range(4)]
    )
    here("label", pairs, "-m", tiny, "-c", "non-evasive", "--few-shot", 0, "-o", tmp_path / "prefs.jsonl")
    fit = ("--steps", 1, "--dtype", "float32", "--lr", 1e-3, "-m", tiny)
    here("train-pm", tmp_path / "prefs.jsonl", *fit, "-o", tmp_path / "pm")
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Hello?"}, {"prompt": "You?"}])
    here("rl", prompts, *fit, "--pm", tmp_path / "pm", "--max-tokens", 4, "--num-generations", 2, "-o", tmp_path / "rl")
    for name in ("pm", "rl"):
        card = (tmp_path / name / "README.md").read_text()
        assert "By these constitutions:" in card
        assert "- `non-evasive`, version" in card
        assert "(`label`): `prefs.jsonl`" in card
