"""Check the results of `make demo`, and say what they show.

    python examples/check_demo.py runs/demo

Exits with 1 if a held-out prompt was trained on, if RL did not change the weights, or if its KL is zero.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def largest_change(before: Path, after: Path) -> float:
    """The largest change of a single weight between two model directories."""
    largest = 0.0
    with safe_open(before / "model.safetensors", "pt") as old, safe_open(after / "model.safetensors", "pt") as new:
        for name in new.keys():  # noqa: SIM118 (not a dictionary)
            largest = max(largest, float((new.get_tensor(name).float() - old.get_tensor(name).float()).abs().max()))
    return largest


def main(run: Path) -> None:
    """Print one line per check, then how to read the numbers."""
    held_out = {record["id"] for record in records(run / "held-out.jsonl")}
    trained = {name: set((run / name / "trained-ids.txt").read_text().splitlines()) for name in ("sft", "pm", "rl")}
    leaked = sorted(set().union(*trained.values()) & held_out)
    change = largest_change(run / "sft", run / "rl")
    kl = max(line["kl"] for line in records(run / "rl" / "metrics.jsonl"))
    print(f"held-out prompts trained on: {len(leaked)} of {len(held_out)}")
    print(f"largest change of a weight by RL: {change:.2g}")
    print(f"largest KL from the SFT model during RL: {kl:.2g}")
    print(
        "\nThis shows that every step runs. It does not show that the method works: a model this small is not a competent\n"
        "critic or judge, and the answers are scored by the same preference model that was the reward in RL."
    )
    if leaked or not change or not kl:
        sys.exit("check failed: a held-out prompt was trained on, or RL changed nothing")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
