"""`cai score`: raw scores of every kind of record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.conftest import Here
from tests.rows import asks, read_jsonl, write_jsonl


def test_scores_equal_a_plain_forward_pass(here: Here, tiny_pm: str, tmp_path: Path) -> None:
    """Every text of every kind of record, in batches of unequal lengths, against transformers one by one."""
    question = [{"role": "user", "content": "Hello?"}]
    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": "Hello?", "response": "Hi.", "rounds": [{"principle": "p", "critique": "c", "revision": "Good day to you, dear human."}]},
        {"id": "b", "prompt": "Hello?", "responses": ["One", "The capital of France is Paris, and this is long.", "x"]},
        {"id": "c", "prompt": question, "chosen": [{"role": "assistant", "content": "Yes"}], "rejected": [{"role": "assistant", "content": "No"}], "p_chosen": 0.7},
        {"id": "d", "chosen": [*question, {"role": "assistant", "content": "Yes"}], "rejected": [*question, {"role": "assistant", "content": "No"}]},
    ]  # fmt: skip
    out = tmp_path / "out.jsonl"
    here("score", write_jsonl(tmp_path / "in.jsonl", rows), "-m", tiny_pm, "--dtype", "float32", "-o", out)
    a, b, c, d = (row["scores"] for row in read_jsonl(out))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_pm, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_pm)

    def plain(answer: str) -> float:
        chat = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": answer}], return_dict=False)
        with torch.no_grad():
            return float(model(torch.tensor([chat])).logits[0, 0])

    assert a == {
        "response": pytest.approx(plain("Hi."), abs=1e-3),
        "rounds": [pytest.approx(plain("Good day to you, dear human."), abs=1e-3)],
    }
    assert b["responses"] == pytest.approx([plain(text) for text in rows[1]["responses"]], abs=1e-3)
    want = {"chosen": pytest.approx(plain("Yes"), abs=1e-3), "rejected": pytest.approx(plain("No"), abs=1e-3)}
    assert c == want
    assert d == want
    assert read_jsonl(out)[2] == {**rows[2], "scores": c}


def test_records_that_cannot_be_scored_are_refused(here: Here, tiny_pm: str, tmp_path: Path) -> None:
    def refused(record: dict[str, Any]) -> str:
        return here("score", write_jsonl(tmp_path / "in.jsonl", [record]), "-m", tiny_pm, code=2).err

    turn = [{"role": "assistant", "content": "Yes"}]
    assert "nothing to score" in refused(asks(1)[0])
    assert "no 'prompt' field" in refused({"id": "a", "chosen": turn, "rejected": turn, "response": "Hi."})
    assert "'responses[0]' must be a string" in refused({"id": "a", "prompt": "x", "response": "y", "responses": [3]})
