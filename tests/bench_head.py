"""One long text must not hold back the others: the section `head-vllm` of tests/bench.py.

1,000 prompts, ten of them with answers 50 times as long, the first at the head: `cai sample`, with its own window and with one of
only 64 records, against a bare `LLM.generate` over the same list.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cai_cli.engines import models
from cai_cli.engines.base import Feed, Request
from cai_cli.engines.vllm import VllmEngine
from cai_cli.pipeline import stage

SHORT, TIMES, EVERY, COUNT = 6, 50, 100, 1000
"""Tokens of a short answer; how many times as long a long one is; one of so many is long; prompts."""
Rate = float


class Lengths(VllmEngine):
    """vLLM with answers whose lengths do not depend on what the model writes."""

    long: frozenset[int] = frozenset()
    """The seeds of the requests that are long."""

    def _params(self, request: Request) -> Any:
        params = super()._params(request)
        if request.kind == "generate":
            params.ignore_eos = True
        return params

    def run(self, feed: Feed) -> Any:
        """As usual, with the length of each answer."""
        return super().run(entry and (entry[0], self._sized(entry[1])) for entry in feed)

    def _sized(self, request: Request) -> Request:
        return replace(request, max_tokens=SHORT * TIMES) if request.seed in self.long else request


def bench_head(model: str, folder: Path) -> dict[str, Any]:
    """`cai sample` with ten long answers among a thousand."""
    from vllm import TokensPrompt

    from cai_cli.data import jsonl
    from cai_cli.method import prompts
    from cai_cli.method.tokens import Renderer
    from cai_cli.pipeline.seeds import draw
    from tests.bench import alternate, cai

    source = folder / "prompts.jsonl"
    source.write_text(
        "".join(json.dumps({"id": f"q{n}", "prompt": f"Tell me about the number {n}."}) + "\n" for n in range(COUNT))
    )
    engine = Lengths(Path(model), models.resolve_dtype("auto"), 0.9)
    engine.long = frozenset(draw(0, "sample", f"q{n}", 0, 0) for n in range(0, COUNT, EVERY))
    renderer = Renderer(models.load_tokenizer(Path(model)))
    asked = [
        engine._sized(renderer.request(prompts.answer(record, "chat"), draw(0, "sample", record["id"], 0, 0), SHORT, 1.0, 1.0))
        for record in jsonl.read(str(source))
    ]

    def bare() -> Rate:
        engine.llm.reset_prefix_cache()
        start = time.monotonic()
        given = [TokensPrompt(prompt_token_ids=request.ids) for request in asked]
        done = engine.llm.generate(given, [engine._params(request) for request in asked], use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in done) / (time.monotonic() - start)

    def ours(window: int) -> Rate:
        usual = stage.Window
        stage.Window = lambda _, *rest, **more: usual(window, *rest, **more)  # type: ignore[misc, assignment]
        try:
            counts = cai("vllm", engine, folder / "out.jsonl", "sample", str(source), "-m", model, "--max-tokens", str(SHORT))
        finally:
            stage.Window = usual  # type: ignore[misc]
        return counts["completion_tokens"] / counts["seconds"]

    sides: dict[str, Callable[[], Rate]] = {
        "cai sample": lambda: ours(stage.WINDOW),
        "cai sample, a window of 64": lambda: ours(64),
        "LLM.generate": bare,
    }
    return alternate("ten long answers among a thousand", "tokens/s", sides)


SECTIONS = {"head-vllm": bench_head}
