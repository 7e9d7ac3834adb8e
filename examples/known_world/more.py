"""Report what is beside the paper in the known world (`make known-more`): the tables of docs/reward.md and others, and the
predictions of docs/known-world.md.

    python examples/known_world/more.py runs/more/seed-1 runs/more/seed-2 ... [--size 80]

Intervals, and when a prediction holds, are those of report.py. Seconds, tokens and the KL are means over the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import measure
import yaml
from measure import Shares
from report import ALONE, BACK, Claim, Results, claim, differences, show

from cai_cli.data.jsonl import Record, read
from cai_cli.method import constitution, inference

HERE = Path(__file__).parent
SHARES = {
    "harm": "harmful", "helpful": "helpful", "bare_harmful": "evasive", "refused_harmless": "over-refusal", "garbled": "garbled",
    "untrue": "untrue",
}  # fmt: skip
FIELDS = {f"harm {field}": f"harmful: {field}" for field in ("making", "people", "ends")}
REWARDS = {
    "sft-4": "SL-CAI", "rl": "a PM", "rl-judged": "the judge compares", "rl-graded": "the judge grades",
    "rl-long": "a PM, 4 times the steps", "rl-judged-long": "compares, 4 times", "rl-graded-long": "grades, 4 times",
}  # fmt: skip
CONDITIONED = {
    "sft-4": "SL-CAI", "rl": "a PM", "rl-conditioned": "it reads the principle", "rl-conditioned-without": "without `people`",
    "rl-conditioned-helpful": "with a PM of help",
}  # fmt: skip
IN_CONTEXT = {
    "base": "helpful-only base", "sft-once": "SL-CAI, 1 round", "sft-twice": "SL-CAI, 2 rounds",
    "sft-in-context": "in context", "sft-filtered": "filtered",
}  # fmt: skip
WRITTEN = {
    "sft-once": ("responses", "critiques-1", "revisions-1"),
    "sft-twice": ("responses", "critiques-1", "revisions-1", "critiques-2", "revisions-2"),
    "sft-in-context": ("in-context",),
    "sft-filtered": ("in-context",),
}
"""The files that led to a model's training texts."""
LABELLED = ("pairs.jsonl", "soft.jsonl", "pm-soft")
"""What RL by a PM needs besides, and RL by the judge does not."""


def manifest(path: Path) -> Record:
    """The manifest of an output: a file's, or a model's."""
    return json.loads((path / "manifest.json" if path.is_dir() else path.with_name(f"{path.name}.manifest.json")).read_text())


def mean(results: Results, name: str, count: str) -> float:
    """A count of an output's manifest, as a mean over the seeds. `read` is the tokens read and computed."""
    found = [manifest(folder / name)["counts"] for folder in results.folders]
    return fmean(each["prompt_tokens"] - each["reused_tokens"] if count == "read" else each[count] for each in found)


def last(results: Results, name: str, column: str) -> list[float]:
    """A column of RL's metrics: every step's of every seed."""
    return [row.get(column, 0.0) for folder in results.folders for row in read(str(folder / name / "metrics.jsonl"))]


def costs(results: Results) -> dict[str, dict[str, str]]:
    """The columns of the rewards' table: the whole way's seconds, the judge's tokens, and the mean KL of the steps."""
    found: dict[str, dict[str, str]] = {"seconds": {}, "judge's tokens": {}, "KL": {}}
    for name in (name for name in REWARDS if name.startswith("rl")):
        labelled = name in ("rl", "rl-long")
        seconds = mean(results, name, "seconds") + (sum(mean(results, each, "seconds") for each in LABELLED) if labelled else 0)
        tokens = (
            mean(results, "soft.jsonl", "read")
            if labelled
            else sum(last(results, name, "feedback_tokens")) / len(results.folders)
        )
        found["seconds"][name], found["judge's tokens"][name] = f"{seconds:,.0f}", f"{tokens:,.0f}"
        found["KL"][name] = f"{fmean(last(results, name, 'kl')):.3f}"
    return found


def generated(results: Results) -> dict[str, dict[str, str]]:
    """The columns of the table of the constitution in context: tokens generated, and read by the judge that filters."""
    made = {name: sum(mean(results, f"{file}.jsonl", "completion_tokens") for file in files) for name, files in WRITTEN.items()}
    judged = {"sft-filtered": f"{mean(results, 'graded.jsonl', 'read'):,.0f}"}
    return {"generated tokens": {name: f"{count:,.0f}" for name, count in made.items()}, "judge's tokens": judged}


def table(found: dict[str, Shares], models: dict[str, str], shares: dict[str, str], more: dict[str, dict[str, str]]) -> list[str]:
    """A row per model: its shares, and further columns."""
    heads = ["", *shares.values(), *more]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, title in models.items():
        cells = [show(measure.interval(found[name][key])) for key in shares]
        lines.append(f"| {' | '.join([title, *cells, *(column.get(name, '') for column in more.values())])} |")
    return lines


def inferred(folder: Path) -> tuple[list[str], list[str]]:
    """(the kept rules of a seed as rows, the planted principle that each is like or "invented")."""
    planted = constitution.load(str(HERE / "constitution.yaml")).principles
    path = folder / "inferred/constitution.yaml"  # there is none if no rule predicts the choices
    kept = {each["id"] for each in yaml.safe_load(path.read_text())["principles"]} if path.exists() else set()
    rows = read(str(folder / "inferred/principles.jsonl")) if kept else ()
    lines, found = [], []
    for row in (row for row in rows if row["id"] in kept):
        likes = [p.id for p in planted if p.compare and len(inference.candidates([row["rule"], _as_rule(p.compare)], 2)) == 1]
        found.append(likes[0] if likes else "invented")
        held = row["held_out"]
        accuracy = show((held["accuracy"], held["low"], held["high"])) if held else ""
        lines.append(f"| {folder.name} | {row['rule']} | {found[-1]} | {accuracy} | {held['support'] if held else 0:.2f} |")
    return lines, found


def _as_rule(compare: str) -> str:
    """A planted principle's text in the words of a proposal."""
    return compare.replace("answer", "response", 1)


def predictions(found: dict[str, Shares], rules: list[list[str]]) -> list[Claim]:
    """The predictions of docs/known-world.md, section "Beside the paper"."""

    def change(after: str, before: str, key: str = "harm", share: float = 1.0) -> list[tuple[str, float]]:
        return differences(found[after][key], found[before][key], share)

    lines = [claim(f"{name} is less harmful than SL-CAI", change(name, "sft-4"), -1) for name in ("rl-judged", "rl-graded")]
    for name in ("rl-judged", "rl-graded"):
        lines.append(claim(f"{name} is less harmful than RL by a PM", change(name, "rl"), -1))
        lines.append(claim(f"{name} has more untrue answers than RL by a PM", change(name, "rl", "untrue"), 1))
        for key, text, sign in (("garbled", "garbles", -1), ("helpful", "loses help", 1)):
            more = differences(change(f"{name}-long", name, key), change("rl-long", "rl", key))
            lines.append(claim(f"with 4 times the steps {name} {text} less than RL by a PM", more, sign))
    same = measure.interval(change("rl-conditioned", "rl"))
    lines.append(
        (f"RL by a PM that reads the principle is within {ALONE} as harmful", -ALONE < same[1] < same[2] < ALONE, show(same))
    )
    key = "harm people"
    lines.append(
        claim(
            f"without `people` its harm exceeds {BACK:.0%} of SL-CAI's", change("rl-conditioned-without", "sft-4", key, BACK), 1
        )
    )
    others = [
        measure.interval(change("rl-conditioned-without", "rl-conditioned", f"harm {field}")) for field in ("making", "ends")
    ]
    text = ", ".join(show(other, "+") for other in others)
    lines.append((f"without `people` the other kinds rise by less than {ALONE}", all(other[2] < ALONE for other in others), text))
    lines.append(claim("a PM of help makes it more helpful", change("rl-conditioned-helpful", "rl-conditioned", "helpful"), 1))
    lines.append(claim("with a PM of help it is less harmful than SL-CAI", change("rl-conditioned-helpful", "sft-4"), -1))
    for name, text in {"sft-once": "1 round", "sft-twice": "2 rounds"}.items():
        lines.append(
            claim(f"the constitution in context is less harmful than SL-CAI of {text}", change("sft-in-context", name), -1)
        )
    lines.append(claim("filtered by grades it is less harmful", change("sft-filtered", "sft-in-context"), -1))
    text = "; ".join(", ".join(each) or "none" for each in rules)
    every = all({"making", "people", "ends", "evasion"} <= {*each} for each in rules)
    lines.append(("every planted principle is inferred in every seed", every, text))
    lines.append(("no inferred principle is invented", all(each and "invented" not in each for each in rules), text))
    return lines


def main(folders: list[Path], size: int) -> None:
    """Print the tables and the predictions."""
    results = Results(folders, size)
    found = {name: results.shares(f"answers-{name}") for name in {**REWARDS, **CONDITIONED, **IN_CONTEXT}}
    print("\n".join(table(found, REWARDS, SHARES, costs(results))), end="\n\n")
    print("\n".join(table(found, CONDITIONED, {**SHARES, **FIELDS}, {})), end="\n\n")
    print("\n".join(table(found, IN_CONTEXT, SHARES, generated(results))), end="\n\n")
    lines, rules = zip(*map(inferred, folders), strict=True)
    print("| seed | kept rule | planted | accuracy on held-out pairs | support |\n|---|---|---|---|---|")
    print("\n".join(line for each in lines for line in each), end="\n\n")
    for text, holds, number in predictions(found, list(rules)):
        print(f"{'holds' if holds else 'FAILS':6} {text}: {number}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--size", type=int, default=80)
    given = parser.parse_args()
    main(given.folders, given.size)
