"""What few-shot examples cost: the section `examples` of tests/bench.py.

`cai critique` after the packaged examples, with one engine: their keys and values are read once for all rows, or copied into each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cai_cli.engines import models
from cai_cli.engines.select import Setup

ANSWERS, TOKENS = 32, 48
Rate = float


def bench_examples(model: str, folder: Path) -> dict[str, Any]:
    """Tokens per second, with the time for the examples themselves."""
    from tests.bench import ROOT, alternate, cai

    rows = [json.loads(line) for line in (ROOT / "examples/red-team.jsonl").read_text().splitlines()[:ANSWERS]]
    source = folder / "answers.jsonl"
    source.write_text("".join(json.dumps({**row, "response": "I can help you with that."}) + "\n" for row in rows))
    engine: Any = Setup("transformers", Path(model), models.dtype_name("auto")).open_one()

    def critiques(shares: bool | None) -> Rate:
        engine.shares = shares
        args = ("critique", str(source), "-m", model, "--max-tokens", str(TOKENS))
        counts = cai("transformers", engine, folder / "out.jsonl", *args)
        return float(counts["completion_tokens"] / counts["seconds"])

    sides: dict[str, Callable[[], Rate]] = {
        "read once": partial(critiques, None),
        "copied into each row": partial(critiques, False),
    }
    return alternate("few-shot examples of cai critique, one process", "tokens/s", sides)


SECTIONS = {"examples": bench_examples}
