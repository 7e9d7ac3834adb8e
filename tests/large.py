"""Time and memory of a million rows: `make large`.

    python tests/large.py models/SmolLM2-135M-Instruct [ROWS]

Preference pairs of about 300 tokens, of random words of the example comparisons, go through `cai mix`, `cai split`, and the checks and
the tokenising of a trainer (`cai plan train-pm`). Then texts of 30 words go through the index of near-duplicates of `cai prompts`, and
values through a bootstrap. Prints seconds and the most memory of each. Needs 8 GB of disk, in TMPDIR.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SEARCH = 50
"""Of so many texts one is looked for, with one word changed."""
PARTS = ["near-duplicates", "bootstrap"]


def words() -> list[str]:
    """The words of the example comparisons, in order."""
    rows = [json.loads(line) for line in (ROOT / "examples/helpful-comparisons.jsonl").read_text().splitlines()]
    return " ".join(message["content"] for row in rows for message in (*row["chosen"], *row["rejected"])).split()


def write(path: Path, rows: int) -> None:
    """The pairs."""
    pool, draw = words(), random.Random(0)
    pool *= 1000 // len(pool) + 2
    with path.open("w") as stream:
        for number in range(rows):
            start = draw.randrange(len(pool) - 500)
            parts = pool[start : start + 60], pool[start + 60 : start + 220], pool[start + 230 : start + 385]
            texts = dict(zip(("prompt", "chosen", "rejected"), map(" ".join, parts), strict=True))
            stream.write(json.dumps({"id": f"r{number}", **texts, "p_chosen": 0.7}) + "\n")


def near_duplicates(rows: int) -> str:
    """Add texts to the index, and look for some of them with one word changed."""
    from cai_cli.data.duplicates import NearDuplicates

    pool, draw, index, found = words(), random.Random(1), NearDuplicates(80.0), 0
    for number in range(rows):
        text = draw.choices(pool, k=30)
        index.add(text)
        if number % SEARCH == 0:
            found += index.find([*text[:3], "zebra", *text[4:]]) is not None
    return f"found {found} of {len(range(0, rows, SEARCH))}"


def bootstrap(rows: int) -> str:
    """The interval of a mean."""
    from cai_cli.evaluation.intervals import mean_interval

    draw = random.Random(2)
    return str(mean_interval([draw.random() for _ in range(rows)]))


def measured(name: str, command: list[str], folder: Path) -> None:
    """Run a command and print its time and the most memory of any of its processes."""
    before = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | {"XDG_CACHE_HOME": str(folder)}, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read().strip() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - before
    assert status == 0, out
    print(f"{name:20} {seconds:8.1f} s {usage.ru_maxrss / 2**20:8.2f} GiB  {out if name in PARTS else ''}", flush=True)


def main(model: str, rows: int) -> None:
    """Print a line for each command."""
    cai = str(Path(sys.executable).parent / "cai")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs, out = str(folder / "pairs.jsonl"), str(folder / "out.jsonl")
        write(folder / "pairs.jsonl", rows)
        print(f"{rows:,} pairs, {os.path.getsize(pairs) / 1e9:.1f} GB, {os.cpu_count()} cores")
        commands = {
            "mix": [cai, "mix", pairs, "-o", out],
            "split": [cai, "split", pairs, "--fraction", "0.2", "-o", out],
            "check and tokenise": [cai, "plan", "train-pm", pairs, "-m", model, "-o", str(folder / "pm")],
        }
        parts = {part: [sys.executable, __file__, part, str(rows)] for part in PARTS}
        for title, command in (commands | parts).items():
            measured(title, command, folder)
            Path(out).unlink(missing_ok=True)


if __name__ == "__main__":
    first, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    if first in PARTS:
        print({"near-duplicates": near_duplicates, "bootstrap": bootstrap}[first](count))
    else:
        main(first, count)
