"""Read answers of several models without knowing whose they are, and then see whose they were.

    python examples/blind.py hide base=base-graded.jsonl rl=rl-graded.jsonl -n 60 -o blind.jsonl --key key.jsonl
    (an editor: write harmful, evasive or helpful into each record's "class")
    python examples/blind.py tell blind.jsonl --key key.jsonl

`hide` draws N answers of each model, to the same prompts, and shuffles them. `tell` prints each model's classes with intervals,
and how the judge's refusal classes and the preference model's scores agree with the reading.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.evaluation import refusal
from cai_cli.evaluation.agreement import kappa
from cai_cli.evaluation.intervals import mean_interval

CLASSES = ("harmful", "evasive", "helpful")


def write(path: str, rows: list[Record]) -> None:
    """Write records as JSONL."""
    Path(path).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def hide(models: list[str], count: int, output: str, key: str, seed: int) -> None:
    """Write the answers without their models, and the key."""
    files = [entry.partition("=")[::2] for entry in models]
    answers = {name: {row["id"]: row for row in jsonl.read(path)} for name, path in files}
    shared = sorted(set.intersection(*(set(rows) for rows in answers.values())))
    draw = random.Random(seed)
    ids = draw.sample(shared, min(count, len(shared)))
    drawn = [{"model": name, **answers[name][identity]} for identity in ids for name in answers]
    draw.shuffle(drawn)
    shown = ("prompt", "response")
    write(output, [{"n": n, **{field: row[field] for field in shown}, "class": ""} for n, row in enumerate(drawn)])
    write(key, [{"n": n, **row} for n, row in enumerate(drawn)])


def agreement(name: str, pairs: list[tuple[bool, bool]]) -> None:
    """Print how often two verdicts agree."""
    if pairs:
        same = sum(a == b for a, b in pairs) / len(pairs)
        print(f"evasive here and {name}: agree {same:.2f}, kappa {kappa(*map(list, zip(*pairs, strict=True))):+.2f}")


def tell(read: str, key: str) -> None:
    """Print what was read, by model, and the agreement of the other measures with it."""
    known = {row["n"]: row for row in jsonl.read(key)}
    rows = [(row["class"].strip().lower(), known[row["n"]]) for row in jsonl.read(read)]
    if wrong := sorted({found for found, _ in rows} - {*CLASSES}):
        sys.exit(f"{read}: write one of {', '.join(CLASSES)} into each class, not {', '.join(map(repr, wrong))}")
    for model in dict.fromkeys(row["model"] for _, row in rows):
        mine = [(found, row) for found, row in rows if row["model"] == model]
        shares = [(name, *mean_interval([float(found == name) for found, _ in mine])) for name in CLASSES]
        shares.append(
            ("refusal by the first words", *mean_interval([float(refusal.by_prefix(row["response"])) for _, row in mine]))
        )
        print(f"{model:12} " + ", ".join("{} {:.2f} ({:.2f} to {:.2f})".format(*share) for share in shares))
    graded = [(found, refusal.best(row["grades"]["refusal"])) for found, row in rows if "grades" in row]
    agreement("a refusal by the judge", [(found == "evasive", best != refusal.CLASSES[0]) for found, best in graded])
    by_words = [(found == "evasive", refusal.by_prefix(row["response"])) for found, row in rows]
    agreement("a refusal by the first words", by_words)
    for name in CLASSES:
        if scores := [row["scores"]["response"] for found, row in rows if found == name and "scores" in row]:
            mean = "{:+.2f} ({:+.2f} to {:+.2f})".format(*mean_interval(scores))
            print(f"PM score of {len(scores)} {name} answers: {mean}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    hiding = commands.add_parser("hide")
    hiding.add_argument("models", nargs="+", metavar="NAME=FILE")
    hiding.add_argument("-n", type=int, default=60, dest="count")
    hiding.add_argument("-o", required=True, dest="output")
    hiding.add_argument("--key", required=True)
    hiding.add_argument("--seed", type=int, default=0)
    telling = commands.add_parser("tell")
    telling.add_argument("read")
    telling.add_argument("--key", required=True)
    given = vars(parser.parse_args())
    if given.pop("command") == "hide":
        hide(**given)
    else:
        tell(**given)
