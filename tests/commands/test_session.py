"""What the commands that run a model share: the dtype that --dtype auto gives each of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from cai_cli.engines import models
from cai_cli.pipeline import manifest
from tests.conftest import Here
from tests.processes import start
from tests.rows import preferences, read_jsonl, write_jsonl
from tests.tiny import TRANSFORMERS


def test_probabilities_are_computed_in_float32_by_default(
    here: Here, tiny: str, prompts: str, pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the processor has bf16, which generation uses. The size of a batch changes nothing."""
    monkeypatch.setattr(models, "has_bf16", lambda: True)
    known = write_jsonl(tmp_path / "known.jsonl", preferences(4))
    runs: list[tuple[str, str, list[object]]] = [
        ("one", "float32", ["label", pairs, "--batch-size", 1]),
        ("many", "float32", ["label", pairs, "--batch-size", 32]),
        ("judged", "float32", ["eval", "choice", known]),
        ("sampled", "bfloat16", ["sample", prompts, "--max-tokens", 2]),
        ("exact", "float32", ["sample", prompts, "--max-tokens", 2, "--deterministic"]),
    ]
    for name, dtype, command in runs:
        here(*command, "-m", tiny, *TRANSFORMERS, "-o", tmp_path / name)
        made = manifest.read(tmp_path / f"{name}.manifest.json")
        assert made["model"]["dtype"] == made["fingerprint"]["dtype"] == dtype
    one, many = ([row["p_chosen"] for row in read_jsonl(tmp_path / name)] for name in ("one", "many"))
    assert one == pytest.approx(many, abs=1e-4)


def test_a_model_that_changes_before_its_first_record_is_refused(tiny_pm: str, tmp_path: Path) -> None:
    """Else its answers would be kept, and its scores recorded, under the hash of another model."""
    model, out = tmp_path / "pm", tmp_path / "scores.jsonl"
    shutil.copytree(tiny_pm, model)
    process = start("score", "-", "-m", model, "-o", out, stdin=subprocess.PIPE)
    while not Path(f"{out}.partial.manifest.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.utime(model / "model.safetensors")
    _, err = process.communicate('{"id": "a", "prompt": "p", "response": "r"}\n', timeout=120)
    assert process.returncode == 1
    assert "the model was changed while the command waited for its first record; start it again" in err
