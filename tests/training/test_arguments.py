"""The arguments that TRL's trainers are given: warm-up and attention."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_cli.engines import models
from cai_cli.training import arguments, examples, sft
from cai_cli.training.examples import PreferenceExample
from tests.rows import read_jsonl, revisions, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_of_few_steps_has_no_warmup(tiny: str, tmp_path: Path) -> None:
    sft.train(settings("train-sft", [write_jsonl(tmp_path / "a.jsonl", revisions(8))], tiny, tmp_path / "out", steps=1))
    assert [line["learning_rate"] for line in read_jsonl(tmp_path / "out" / "metrics.jsonl")] == [1e-3]
    few, many = (arguments.warmup_steps(settings("train-sft", [], tiny, tmp_path, steps=n), 0) for n in (20, 100))
    assert (few, many) == (0, 5)


@pytest.mark.skipif(models.device() != "cpu", reason="on a GPU cai leaves the choice of attention to the library")
def test_only_short_examples_use_eager_attention(tiny: str, tmp_path: Path) -> None:
    """Plain attention keeps length x length numbers per head and layer: with long examples they fill the memory."""
    for words, expected in ((1, "eager"), (400, "sdpa")):
        long = [row | {"response": "no " * words, "rounds": []} for row in revisions(4)]
        source = write_jsonl(tmp_path / f"{words}.jsonl", long)
        run = settings("train-sft", [source], tiny, tmp_path / expected, steps=1, dtype="bfloat16", max_length=2000)
        assert sft.train(run).model.config._attn_implementation == expected
    pair: PreferenceExample = {"chosen_ids": [1] * 200, "rejected_ids": [1] * 90, "p_chosen": 1.0, "weight": 1.0}
    assert examples.longest_side(pair) == 200
    assert examples.longest_side({**pair, "prompt_ids": [1] * 70}) == 270
