"""Report what is beside the paper in the known world (`make known-more`): the tables of docs/reward.md and others.

    python examples/known_world/more.py runs/more/seed-1 runs/more/seed-2 ... [--size 80]

Intervals are those of report.py. Seconds and tokens are means over the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import measure
import yaml
from report import Results, show

from cai_cli.data.jsonl import Record, read
from cai_cli.method import constitution, inference

HERE = Path(__file__).parent
SHARES = {
    "harm": "harmful",
    "helpful": "helpful",
    "bare_harmful": "evasive",
    "refused_harmless": "over-refusal",
    "garbled": "garbled",
}
FIELDS = {f"harm {field}": f"harmful: {field}" for field in ("making", "people", "ends")}
REWARDS = {
    "sft-4": "SL-CAI", "rl": "a PM", "rl-judged": "the judge compares", "rl-graded": "the judge grades",
    "rl-long": "a PM, 4 times the steps", "rl-judged-long": "compares, 4 times", "rl-graded-long": "grades, 4 times",
}  # fmt: skip
CONDITIONED = {
    "sft-4": "SL-CAI", "rl": "a PM", "rl-conditioned": "it reads the principle", "rl-conditioned-without": "without `people`",
}  # fmt: skip
IN_CONTEXT = {
    "base": "helpful-only base", "sft-1": "SL-CAI, 1 round", "sft-in-context": "in context", "sft-filtered": "the same, filtered",
}  # fmt: skip
WRITTEN = {
    "sft-1": ("responses", "critiques-1", "revisions-1"),
    "sft-in-context": ("in-context",),
    "sft-filtered": ("in-context",),
}
"""The files whose generated texts a model was trained on, or which led to them."""


def manifest(folder: Path) -> Record:
    """The manifest of an output: a file's, or a model's."""
    model = folder / "manifest.json"
    return json.loads((model if model.exists() else folder.with_name(f"{folder.name}.manifest.json")).read_text())


def table(results: Results, models: dict[str, str], shares: dict[str, str], more: dict[str, dict[str, str]]) -> list[str]:
    """A row per model: its shares, and further columns."""
    heads = ["", *shares.values(), *more]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, title in models.items():
        if results.has(f"answers-{name}"):
            found = results.shares(f"answers-{name}")
            cells = [show(measure.interval(found[key])) for key in shares]
            lines.append(f"| {' | '.join([title, *cells, *(column.get(name, '') for column in more.values())])} |")
    return lines


def mean(values: list[float]) -> str:
    """A mean over the seeds."""
    return f"{fmean(values):,.0f}"


def cost(results: Results, name: str) -> tuple[str, str]:
    """(seconds of RL, tokens that the judge computed) of a model."""
    seconds, tokens = [], []
    for folder in results.folders:
        seconds.append(manifest(folder / name)["counts"]["seconds"])
        tokens.append(sum(row.get("feedback_tokens", 0) for row in read(str(folder / name / "metrics.jsonl"))))
    return mean(seconds), mean(tokens)


def generated(results: Results, name: str) -> str:
    """Tokens generated for a model's training texts."""
    files = WRITTEN[name]
    return mean([
        sum(manifest(folder / f"{file}.jsonl")["counts"]["completion_tokens"] for file in files) for folder in results.folders
    ])  # fmt: skip


def inferred(folder: Path) -> list[str]:
    """The kept rules of a seed: what each is like, its accuracy on held-out pairs and its support."""
    planted = constitution.load(str(HERE / "constitution.yaml")).principles
    kept = {each["id"] for each in yaml.safe_load((folder / "inferred/constitution.yaml").read_text())["principles"]}
    lines = []
    for row in read(str(folder / "inferred/principles.jsonl")):
        if row["id"] in kept:
            likes = [
                p.id for p in planted if p.compare and len(inference.candidates([_bare(row["rule"]), _bare(p.compare)], 2)) == 1
            ]
            held = row["held_out"]
            accuracy = show((held["accuracy"], held["low"], held["high"])) if held else ""
            lines.append(
                f"| {folder.name} | {row['rule']} | {likes[0] if likes else 'invented'} | {accuracy} | {held['support']:.2f} |"
            )
    return lines


def _bare(rule: str) -> str:
    """A rule without its first words, which a proposal writes and a planted principle does not."""
    return rule.replace("answer", "response", 1)


def main(folders: list[Path], size: int) -> None:
    """Print the tables."""
    results = Results(folders, size)
    costs = {name: cost(results, name) for name in REWARDS if name.startswith("rl") and results.has(f"answers-{name}")}
    spent = {
        title: {name: both[i] for name, both in costs.items()} for i, title in enumerate(("seconds of RL", "judge's tokens"))
    }
    print("\n".join(table(results, REWARDS, SHARES, spent)), end="\n\n")
    print("\n".join(table(results, CONDITIONED, {**SHARES, **FIELDS}, {})), end="\n\n")
    tokens = {name: generated(results, name) for name in WRITTEN}
    print("\n".join(table(results, IN_CONTEXT, SHARES, {"generated tokens": tokens})), end="\n\n")
    print("| seed | kept rule | planted | accuracy on held-out pairs | support |\n|---|---|---|---|---|")
    print("\n".join(line for folder in folders for line in inferred(folder)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--size", type=int, default=80)
    given = parser.parse_args()
    main(given.folders, given.size)
