"""`cai eval scores`: models compared on the same prompts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cai_cli.pipeline import manifest
from tests.conftest import Here
from tests.rows import asks, read_jsonl, write_jsonl


def scored(path: Path, shift: float) -> str:
    draw = random.Random(3)
    rows = [{"id": f"q{i}", "kind": "ab"[i % 2], "scores": {"response": draw.gauss(0, 1) + shift * (i % 2)}} for i in range(40)]
    return write_jsonl(path, [{**row, "prompt": "x", "response": "y"} for row in rows])


def test_models_are_compared_on_the_same_prompts(here: Here, tmp_path: Path) -> None:
    base, better = scored(tmp_path / "base.jsonl", 0), scored(tmp_path / "better.jsonl", 0.5)
    shown = here("eval", "scores", f"base={base}", f"better={better}", "--by", "kind", "-o", tmp_path / "rows.jsonl").out
    rows = {(row["group"], row["model"]): row for row in read_jsonl(tmp_path / "rows.jsonl")}
    assert rows["a", "better"]["difference"] == 0
    assert rows["b", "better"]["difference"] == pytest.approx(0.5)  # paired: the same for each record, so no spread
    assert rows["b", "better"]["difference_low"] == pytest.approx(0.5)
    assert rows["b", "base"]["low"] < rows["b", "base"]["mean"] < rows["b", "base"]["high"]
    assert rows["a", "base"]["records"] == 20
    assert "+0.50 to +0.50" in shown
    assert "write NAME=FILE" in here("eval", "scores", "=x", code=2).err
    fewer = write_jsonl(tmp_path / "fewer.jsonl", read_jsonl(base)[:30])
    assert "10 records left out: not in every file" in here("eval", "scores", f"base={base}", f"few={fewer}").err
    unscored = write_jsonl(tmp_path / "raw.jsonl", [{**asks(1)[0], "scores": None}])
    assert "run `cai score` on it first" in here("eval", "scores", f"a={unscored}", code=2).err


def test_the_preference_model_and_its_dtype_are_named(here: Here, tiny_pm: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{**row, "response": "Yes."} for row in asks(4)])
    for name, dtype in (("a", "auto"), ("b", "float32"), ("c", "bfloat16")):
        here("score", source, "-m", tiny_pm, "--dtype", dtype, "-o", tmp_path / name)
    done = here("eval", "scores", f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}")
    sha = manifest.hash_model(tiny_pm)[:8]
    assert f"scored by {tiny_pm} (sha256 {sha}), float32" in done.out
    assert "warning" not in done.err
    other = here("eval", "scores", f"a={tmp_path / 'a'}", f"c={tmp_path / 'c'}")
    assert "scored by the same preference model in the same dtype" in other.err
    assert f"c by {tiny_pm} (sha256 {sha}), bfloat16" in other.out
    (tmp_path / "a.manifest.json").unlink()
    (tmp_path / "b.manifest.json").unlink()
    assert "scored by an unknown preference model" in here("eval", "scores", f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}").out
