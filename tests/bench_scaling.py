"""Time and memory of every step over the number of records: `make scaling`.

    python tests/bench_scaling.py [RECORDS ...]

Runs the real commands with tiny models on 1, 4 and 16 times as many records, and prints each step's seconds, without start-up, its
most memory, and how many times its seconds grew. CAI_PLOT=FILE.png draws both over the records.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.processes import CAI
from tests.rows import WORDS, write_jsonl
from tests.tiny import ROOT, tiny_model, tiny_pm

SHORT = ("--engine", "transformers", "--max-tokens", "16")
JUDGED = ("--engine", "transformers", "--few-shot", "0")
TRAINED = ("--epochs", "1", "--save-dtype", "float32")
STEPS: dict[str, tuple[str, ...]] = {
    "sample": ("sample", "prompts", *SHORT, "-n", "2"),
    "critique": ("critique", "answers", *SHORT, "--few-shot", "0"),
    "revise": ("revise", "critique", *SHORT, "--few-shot", "0"),
    "label": ("label", "sample", *JUDGED),
    "grade": ("grade", "answers", "-r", "refusal", "--engine", "transformers"),
    "score": ("score", "sample", "--engine", "transformers"),
    "train-sft": ("train-sft", "revise", "--keep-cut", *TRAINED),
    "train-pm": ("train-pm", "label", *TRAINED),
    "train-dpo": ("train-dpo", "label", *TRAINED),
    "rl": ("rl", "prompts", "--pm", "pm", "--max-tokens", "8", *TRAINED),
}
"""Each step's command; a word that names a file stands for that file."""


def prompts(folder: Path, count: int) -> None:
    """Prompts and answers of random words."""
    draw = random.Random(0)
    rows = [{"id": f"q{i}", "prompt": " ".join(draw.choices(WORDS, k=12))} for i in range(count)]
    write_jsonl(folder / "prompts", rows)
    write_jsonl(folder / "answers", [{**row, "response": " ".join(draw.choices(WORDS, k=12))} for row in rows])


def measured(step: str, folder: Path) -> tuple[float, float]:
    """(seconds without start-up, most MiB) of a step."""
    words = [str(folder / word) if (folder / word).exists() else word for word in STEPS[step][1:]]
    command = [*CAI, STEPS[step][0], *words, "-m", str(folder / ("pm" if step == "score" else "model")), "-o", str(folder / step)]
    environment = {**os.environ, "CAI_NO_CACHE": "1", "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"cai {step}:\n{(folder / 'log').read_text()[-2000:]}")
    trained = folder / step / "manifest.json"
    made = json.loads((trained if trained.exists() else folder / f"{step}.manifest.json").read_text())
    return made["counts"]["seconds"], used.ru_maxrss / 1024


def plot(path: str, found: dict[str, dict[int, tuple[float, float]]]) -> None:
    """Draw seconds and memory over the records."""
    from matplotlib import pyplot

    figure, both = pyplot.subplots(1, 2, figsize=(10, 4))
    for axes, place, label in zip(both, (0, 1), ("seconds, without start-up", "most memory, MiB"), strict=True):
        for step, points in found.items():
            axes.plot(list(points), [point[place] for point in points.values()], marker="o", label=f"cai {step}")
        axes.set(xscale="log", xlabel="records", ylabel=label)
        counts = list(next(iter(found.values())))
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
    both[0].set(yscale="log")
    both[1].set(ylim=(0, None))
    both[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(counts: list[int]) -> None:
    """Print a line per step."""
    found: dict[str, dict[int, tuple[float, float]]] = {step: {} for step in STEPS}
    for count in counts:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
            folder = Path(name)
            tiny_model(folder / "model")
            tiny_pm(folder / "pm")
            prompts(folder, count)
            for step in STEPS:
                found[step][count] = measured(step, folder)
    cells: list[Any] = [f"{count:,} records" for count in counts]
    print(f"{'':10}" + "".join(f"{cell:>24}" for cell in cells) + f"{'times as long':>16}")
    for step, points in found.items():
        times = [f"{seconds:10.1f} s {memory:7.0f} MiB" for seconds, memory in points.values()]
        first, last = points[counts[0]], points[counts[-1]]
        print(f"{step:10}" + "".join(f"{cell:>24}" for cell in times) + f"{last[0] / max(first[0], 1e-3):16.1f}", flush=True)
    if path := os.environ.get("CAI_PLOT"):
        plot(path, found)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [256, 1024, 4096])
