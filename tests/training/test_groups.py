"""The answers of a prompt in one row: RL has the same losses and gradients as with a row per answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_cli.training import groups, rl
from tests.rows import read_jsonl, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("algo", "more"),
    [
        ("grpo", {}),
        ("grpo", {"lora": True, "lora_rank": 4}),
        ("grpo", {"gradient_checkpointing": "on", "grad_accum": 2}),
        ("rloo", {}),
    ],
    ids=["grpo", "lora", "check", "rloo"],
)
def test_one_row_trains_as_one_per_answer(
    algo: str, more: dict[str, Any], tiny: str, tiny_pm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of several lengths. The KL needs the reference's probabilities too."""
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": f"q{i}", "prompt": f"Why{' so' * (i % 3)}, {i}?"} for i in range(6)])
    whole, rows = groups.Rows.of, list[int]()

    def noted(*given: Any) -> groups.Rows | None:
        found = whole(*given)
        rows.append(len(found.groups) if found else 0)
        return found

    def train(name: str) -> list[dict[str, Any]]:
        run = settings("rl", [source], tiny, tmp_path / name, steps=4, lr=1e-3, **more)
        rl.train(run, rl.Rollout([tiny_pm], algo, max_tokens=6))
        return read_jsonl(tmp_path / name / "metrics.jsonl")

    monkeypatch.setattr(groups.Rows, "of", noted)
    one = train("one")
    assert rows
    assert 1 <= min(rows) <= max(rows) <= 4  # of eight answers to two prompts
    monkeypatch.setattr(groups.Rows, "of", lambda *_: None)
    two = train("two")
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - {"seconds"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5, rel=1e-4), key
