"""What the commands that run a model share: the dtype that --dtype auto gives each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_cli.engines import models
from cai_cli.pipeline import manifest
from tests.conftest import Here
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
