"""Speed of the judges' commands compared with each other: section `judge` of tests/bench.py.

`cai label`, `cai eval compare` and `cai grade` ask the same model about the same pairs. For `cai grade` the two answers of a pair
become one, cut so that its prompts have as many tokens. The measure is queries per second; kept answers are not used.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import Rate, alternate, cai, constitutions, label_prompts, pairs_file

PAIRS = 64


def inputs(model: str, folder: Path) -> dict[str, list[str]]:
    """Each command's name and the files that it reads, with the same pairs in them."""
    from cai_cli.engines import models
    from cai_cli.method import prompts, rubrics
    from cai_cli.method.tokens import Renderer

    renderer, [criterion, *_] = Renderer(models.load_tokenizer(Path(model))), rubrics.load("hhh").criteria
    source = pairs_file(folder, 128)
    wanted = [len(request.ids) for request in label_prompts(model, source, few_shot=False)[::2]]
    files: dict[str, list[dict[str, Any]]] = {name: [] for name in ("pairs", "one", "other", "joined")}
    for line, tokens in list(zip(source.read_text().splitlines(), wanted, strict=True))[:PAIRS]:
        pair = json.loads(line)
        first, second = pair["responses"]
        words = f"{first} {second}".split() * 4

        def length(count: int, prompt: str = pair["prompt"], words: list[str] = words) -> int:
            options = list(criterion.classes.values())
            shown = prompts.grading(prompt, " ".join(words[:count]), criterion.question, options, "chat")
            return len(renderer.choice(shown, prompts.OPTIONS).ids)

        joined = " ".join(words[: bisect_left(range(len(words)), tokens, key=length)])
        files["pairs"].append(pair)
        for name, text in (("one", first), ("other", second), ("joined", joined)):
            files[name].append({"id": pair["id"], "prompt": pair["prompt"], "response": text})
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rubric = folder / "rubric.yaml"
    rubric.write_text(json.dumps({"criteria": [{"id": criterion.id, "question": criterion.question}]}))
    path = {name: str(folder / f"{name}.jsonl") for name in files}
    return {
        "label": ["label", path["pairs"]],
        "compare": ["eval", "compare", path["one"], path["other"]],
        "grade": ["grade", path["joined"], "-r", str(rubric)],
    }


def asked(model: str, engine: Any, out: Path, command: list[str], criteria: int, tokens: dict[str, float]) -> Rate:
    """Queries per second by a command, in both orders. `tokens` gets its mean number of tokens per query."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the table of `cai eval compare`
    try:
        counts = cai("transformers", engine, out, *command, "-m", model)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
    queries = 2 * criteria * counts["records_in"]
    tokens[" ".join(command)] = (counts["prompt_tokens"] - counts["reused_tokens"]) / queries
    return queries / counts["seconds"]


def bench_judge(model: str, folder: Path) -> dict[str, Any]:
    """`cai label` against `cai eval compare` and `cai grade`, few-shot (two constitutions in a comparison) and without examples."""
    from cai_cli.engines import models
    from cai_cli.engines.transformers import TransformersEngine

    files = inputs(model, folder)
    engine = TransformersEngine(Path(model), models.load_tokenizer(Path(model)), models.resolve_dtype("auto"), 32)
    by = [part for name in constitutions() for part in ("-c", name)]
    plain, one = ["--few-shot", "0"], ["-c", f"harmless={constitutions()[0]}"]
    parts: dict[str, dict[str, tuple[list[str], int]]] = {
        "no examples": {
            "cai label": ([*files["label"], *by, *plain], 1),
            "cai eval compare": ([*files["compare"], *one, *plain], 1),
            "cai grade": (files["grade"], 1),
        },
        "few-shot": {
            "cai label": ([*files["label"], *by], 1),
            "cai eval compare": (files["compare"], 2),
        },
    }
    results = {}
    for name, commands in parts.items():
        tokens: dict[str, float] = {}
        sides: dict[str, Callable[[], Rate]] = {
            side: partial(asked, model, engine, folder / "out.jsonl", command, criteria, tokens)
            for side, (command, criteria) in commands.items()
        }
        results[name] = alternate(f"judges, transformers engine, {name}", "queries/s", sides)
        results[name]["tokens"] = dict(zip(sides, tokens.values(), strict=True))
        for side, count in results[name]["tokens"].items():
            print(f"  tokens computed per query: {side:16} {count:8.1f}")
    return results


SECTIONS = {"judge": bench_judge}
