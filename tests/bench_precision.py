"""How far scores and option probabilities are from float32, and what float32 costs.

    python tests/bench_precision.py models/SmolLM2-135M-Instruct comparisons.jsonl

A PM is trained for 20 steps on the first comparisons. It scores the answers of the last 30, and the model judges 24 of them in
both orders. Prints the differences to float32 in batches of one, and the time of float32 relative to bf16 as the median of
RUNS runs that alternate, with their range.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cai_cli.commands._command import calm_libraries
from cai_cli.data.jsonl import Record
from cai_cli.data.preferences import sides
from cai_cli.engines import models
from cai_cli.engines.base import Request
from cai_cli.engines.scorer import PreferenceModel
from cai_cli.engines.transformers import TransformersEngine
from cai_cli.method import constitution, feedback, prompts
from cai_cli.method.prompts import OPTIONS
from cai_cli.method.tokens import Renderer
from cai_cli.training import pm
from cai_cli.training.settings import Settings
from tests.engine_feed import by_number

RUNS, SCORED, JUDGED = 5, 30, 24
Values = Callable[[str, int], list[float]]
"""From a dtype and a batch size to the numbers."""


def scores(folder: Path, rows: list[Record]) -> Values:
    """The scores of both answers of each row."""
    renderer = Renderer(models.load_tokenizer(folder))
    ids = [
        renderer.score_request(prompts.pm_input_side(row, side, "chat")).ids for row in rows for side in ("chosen", "rejected")
    ]
    return lambda dtype, batch: PreferenceModel(folder, dtype, batch).score_ids(ids)


def probabilities(folder: Path, rows: list[Record]) -> Values:
    """The probability of the letter A in a question about each row, in both orders; every second one has few-shot examples."""
    renderer, found = Renderer(models.load_tokenizer(folder)), constitution.load(constitution.DEFAULT)
    requests: list[Request] = []
    for i, row in enumerate(rows):
        asked, shown = sides(row), feedback.shown_comparisons(found, None, 0, 0) if i % 2 else []
        texts = asked.answers()
        for first, second in (texts, texts[::-1]):
            question = prompts.comparison(asked.prompt, first, second, found.draw(0, "bench", str(i), 0), "chat", shown)
            requests.append(renderer.choice(question, OPTIONS))

    def values(dtype: str, batch: int) -> list[float]:
        engine = TransformersEngine(folder, renderer.tokenizer, models.resolve_dtype(dtype), batch)
        got = by_number(engine.run(iter(list(enumerate(requests)))))
        return [feedback.normalise(choice.logprobs)["A"] for choice in got]

    return values


def ranks(values: list[float]) -> list[float]:
    """The place of each value in the order of all."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return [float(order.index(i)) for i in range(len(values))]


def report(name: str, values: Values) -> None:
    """Print the differences to float32 in batches of one, and the cost of float32."""
    want = values("float32", 1)
    for dtype, batch in (("float32", 32), ("float16", 32), ("bfloat16", 1), ("bfloat16", 32)):
        got = values(dtype, batch)
        gaps = [abs(a - b) for a, b in zip(got, want, strict=True)]
        rank = statistics.correlation(ranks(got), ranks(want))
        print(f"{name:14} {dtype:8} batch {batch:2}  largest {max(gaps):.3f}  mean {statistics.fmean(gaps):.3f}  rank {rank:.3f}")
    ratios = []
    for _ in range(RUNS):
        seconds = {}
        for dtype in ("float32", "bfloat16"):
            start = time.monotonic()
            values(dtype, 32)
            seconds[dtype] = time.monotonic() - start
        ratios.append(seconds["float32"] / seconds["bfloat16"])
    print(
        f"{name:14} float32 takes {statistics.median(ratios):.2f} times as long as bf16 ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main(model: str, source: str) -> None:
    """Measure."""
    calm_libraries(False)
    lines = Path(source).read_text().splitlines()
    rows = [json.loads(line) for line in lines[-SCORED:]]
    with tempfile.TemporaryDirectory() as folder:
        training = Path(folder) / "train.jsonl"
        training.write_text("\n".join(lines[:-SCORED]) + "\n")
        settings = Settings(
            step="train-pm", files=[str(training)], model=model, output=f"{folder}/pm", lr=2e-5, batch_size=4, grad_accum=2,
            steps=20, limit=200, quiet=True,
        )  # fmt: skip
        pm.train(settings)
        report("scores", scores(Path(folder) / "pm", rows))
        report("probabilities", probabilities(Path(model), rows[:JUDGED]))


if __name__ == "__main__":
    main(*sys.argv[1:])
