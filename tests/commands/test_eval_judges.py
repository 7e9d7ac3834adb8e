"""`cai eval judges`: a table and a plot of several judges."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from cai_cli.method.prompts import ANSWER
from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl
from tests.tiny import TRANSFORMERS


def test_judges_are_compared_in_a_table_and_a_plot(here: Here, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    rows = [{"id": f"c{i}", "prompt": f"Question {i}?", "chosen": f"Good {i}.", "rejected": "Bad."} for i in range(20)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    done = here("eval", "choice", source, *TRANSFORMERS, "-m", tiny, "-o", tmp_path / "direct.jsonl")
    assert re.search(r"^few-shot +20 +[01]\.\d{3} ", done.out, re.M)
    shown = here("eval", "choice", source, *TRANSFORMERS, "-m", tiny, "--dry-run", 1)
    assert json.loads(shown.out)["text"].endswith(ANSWER)
    streamed = here("eval", "choice", source, *TRANSFORMERS, "-m", tiny, "--limit", 2, "-o", "-")
    assert [json.loads(line)["id"] for line in streamed.out.splitlines()] == ["c0", "c1"]
    assert "accuracy" in streamed.err
    assert "takes no principles, examples or reasoning" in here("eval", "choice", source, "-m", tiny_pm, "--cot", code=2).err
    done = here("eval", "choice", source, *TRANSFORMERS, "-m", tiny_pm)
    assert re.search(r"^PM score +20 ", done.out, re.M)
    here("eval", "choice", source, *TRANSFORMERS, "-m", tiny_pm, "-o", tmp_path / "pm.jsonl")
    correct = [row["judged"]["correct"] for row in read_jsonl(tmp_path / "direct.jsonl")]
    assert 4 < sum(correct) < 16  # the right answer's place is drawn
    done = here(
        "eval", "judges", f"direct={tmp_path / 'direct.jsonl'}", f"pm={tmp_path / 'pm.jsonl'}", "--plot", tmp_path / "plot.png"
    )
    assert [line.split()[0] for line in done.out.splitlines()] == ["judge", "direct", "pm"]
    for line, name in zip(done.out.splitlines()[1:], ("direct", "pm"), strict=True):  # the right answer is always the longer one
        p = [row["judged"]["p_correct"] for row in read_jsonl(tmp_path / f"{name}.jsonl")]
        *_, share, _, _, _, right = line.split()
        assert (share, right) == (f"{sum(each > 0.5 for each in p) / 20:.3f}", "1.000")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    here("score", source, "-m", tiny_pm, "-o", tmp_path / "scored.jsonl")
    for row, scored in zip(read_jsonl(tmp_path / "pm.jsonl"), read_jsonl(tmp_path / "scored.jsonl"), strict=True):
        d = scored["scores"]["chosen"] - scored["scores"]["rejected"]
        assert row["judged"]["p_correct"] == pytest.approx(1 / (1 + math.exp(-d)), abs=1e-5)
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "Which?", "corrects": [" (A)"], "incorrects": [" (B)"]}])
    err = here("eval", "choice", bad, *TRANSFORMERS, "-m", tiny, code=2).err
    assert "bad.jsonl:1: not a question in the paper's evaluation form" in err
