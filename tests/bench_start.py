"""How long a command takes to begin: sections of tests/bench.py.

help    seconds of `cai --help`, and of the slowest command's help
start   seconds of `cai sample` with one prompt and one token, compared with the shortest script over transformers
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import ROOT, Rate, alternate, prompts_file

CAI = Path(sys.executable).with_name("cai")
SCRIPT = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
name, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
asked = [{"role": "user", "content": prompt}]
batch = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**batch, max_new_tokens=1)[0]))
"""


def seconds(*command: str | Path) -> Rate:
    """How long a command takes, with its modules compiled as an ordinary Python keeps them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.monotonic() - start


def bench_help(model: str, folder: Path) -> dict[str, Any]:
    """Wall time of `cai --help`, and of the command whose help takes longest."""
    headings = [
        line[3:].split()[1:] for line in (ROOT / "docs/commands.md").read_text().splitlines() if line.startswith("## cai ")
    ]

    def once(*words: str) -> Rate:
        return seconds(CAI, *words, "--help")

    slowest = max(headings, key=lambda words: min(once(*words) for _ in range(3)))
    sides = {"cai --help": once, f"cai {' '.join(slowest)} --help, the slowest": lambda: once(*slowest)}
    return alternate("seconds of help", "s", sides)


def bench_start(model: str, folder: Path) -> dict[str, Any]:
    """Wall time of the whole command."""
    source = prompts_file(folder, 1)
    more = ("-m", model, "--engine", "transformers", "--max-tokens", "1", "-o", folder / "out.jsonl", "--restart", "--quiet")
    sides: dict[str, Callable[[], Rate]] = {
        "cai sample, one prompt, one token": lambda: seconds(CAI, "sample", source, *map(str, more)),
        "a script over transformers": lambda: seconds(sys.executable, "-c", SCRIPT, model, "Why is the sky blue?"),
    }
    return alternate("seconds of a start", "s", sides)


SECTIONS = {"help": bench_help, "start": bench_start}
