"""Print the memory that each trainer needs per GPU for models of 1.7B and 7B parameters, at 2,048 tokens.

    .venv/bin/python examples/plan_sizes.py models/SmolLM2-135M-Instruct

Runs `cai plan --gpu 80` on the configurations of SmolLM2-1.7B and Qwen2.5-7B, without weights. The tokenizer is that of the
given model, so only the number of tokens is real. The preference model of `rl` has the policy's size.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CAI = str(Path(sys.executable).parent / "cai")
WORDS = 2000  # with the prompt and the template, at most 2,048 tokens
PROMPT = 980  # rl's answers have up to 1,024 tokens
LORA = [[], ["--lora"], ["--lora", "--load-in-4bit"]]


def configurations() -> dict[str, object]:
    """The configurations by the models' names."""
    from transformers import LlamaConfig, Qwen2Config

    small = LlamaConfig(
        vocab_size=49152, hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    large = Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=32768, tie_word_embeddings=False,
    )  # fmt: skip
    return {"1.7B": small, "7B": large}


def save(config: object, tokenizer: Path, folder: Path, kind: str) -> None:
    """A model directory without weights: a configuration, and a tokenizer with its template."""
    folder.mkdir(parents=True)
    for path in tokenizer.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.name != "config.json":
            shutil.copy(path, folder)
    config.architectures = [f"{type(config).__name__.removesuffix('Config')}For{kind}"]  # type: ignore[attr-defined]
    config.num_labels = 1  # type: ignore[attr-defined]
    config.save_pretrained(folder)  # type: ignore[attr-defined]


def main(tokenizer: Path) -> None:
    """Print a row for each size, trainer and way."""
    row = "{:6} {:10} {:22} {:>22} {:>22} {:>12}"
    print(row.format("model", "trainer", "flags", "GiB, no checkpointing", "GiB, checkpointing", "one of 80 GB"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for step in ("train-sft", "train-pm", "train-dpo", "rl"):
            long = "word " * (PROMPT if step == "rl" else WORDS)
            record = {
                "id": "a",
                "prompt": long if step == "rl" else "word",
                "response": long,
                "chosen": long,
                "rejected": "other " + long,
            }
            kept = {"train-sft": ("response",), "rl": ()}.get(step, ("chosen", "rejected"))
            content = json.dumps({key: record[key] for key in ("id", "prompt", *kept)}) + "\n"
            (root / f"{step}.jsonl").write_text(content)
        for size, config in configurations().items():
            save(config, tokenizer, root / size, "CausalLM")
            save(config, tokenizer, root / f"pm-{size}", "SequenceClassification")
            for step in ("train-sft", "train-pm", "train-dpo", "rl"):
                for flags in LORA:
                    more = ["--pm", str(root / f"pm-{size}")] if step == "rl" else []
                    command = [CAI, "plan", "--gpu", "80", step, str(root / f"{step}.jsonl"), "-m", str(root / size)]
                    done = subprocess.run(
                        [*command, "-o", str(root / "out"), *flags, *more],
                        env=os.environ | {"XDG_CACHE_HOME": str(root / "cache")}, stdout=subprocess.PIPE, text=True, check=True,
                    )  # fmt: skip
                    lines = {line.split("  ")[0]: line.split()[-4:] for line in done.stdout.splitlines()}
                    totals = lines["total, with gaps"][-2:]
                    fits = "yes" if float(totals[-1]) * 2**30 <= 80 * 10**9 else "no"
                    print(row.format(size, step, " ".join(flags), *totals, fits), flush=True)


main(Path(sys.argv[1]))
