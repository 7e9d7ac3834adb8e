"""Two commands on the same cores: sections of tests/bench.py.

pipe       `cai sample | cai critique`, compared with one after the other
neighbour  `cai train-sft` beside a process that keeps a core busy
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import Rate, alternate, prompts_file
from tests.bench_training import answers

CAI = str(Path(sys.executable).with_name("cai"))
RECORDS, TOKENS, STEPS = 16, 64, 6


def seconds(*commands: str, **environment: str) -> Rate:
    """How long shell commands take, one after the other."""
    start = time.monotonic()
    for command in commands:
        subprocess.run(command, shell=True, check=True, capture_output=True, env={**os.environ, **environment})
    return time.monotonic() - start


def bench_pipe(model: str, folder: Path) -> dict[str, Any]:
    """Whole commands, with their start."""
    source = prompts_file(folder, RECORDS)
    more = f"-m {model} --engine transformers --max-tokens {TOKENS} --quiet"
    sample, critique = f"{CAI} sample {source} {more}", f"{CAI} critique {{}} {more}"
    between, out = folder / "between.jsonl", folder / "out.jsonl"
    sides: dict[str, Callable[[], Rate]] = {
        "cai sample | cai critique": lambda: seconds(f"{sample} | {critique.format('-')} > {out}"),
        "one after the other": lambda: seconds(f"{sample} > {between}", f"{critique.format(between)} > {out}"),
    }
    return alternate("seconds of two commands", "s", sides)


def bench_neighbour(model: str, folder: Path) -> dict[str, Any]:
    """Whole runs of STEPS steps."""
    source, _ = answers(folder)
    train = f"{CAI} train-sft {source} -m {model} --steps {STEPS} --quiet --restart -o {folder / 'out'}"

    def beside(**environment: str) -> Rate:
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            return seconds(train, **environment)
        finally:
            busy.kill()
            busy.wait()

    sides: dict[str, Callable[[], Rate]] = {
        "beside a busy process": beside,
        "beside it, threads not adapted": partial(beside, OMP_NUM_THREADS=str(len(os.sched_getaffinity(0)))),
        "alone": lambda: seconds(train),
    }
    return alternate(f"seconds of cai train-sft, {STEPS} steps", "s", sides)


SECTIONS = {"pipe": bench_pipe, "neighbour": bench_neighbour}
