"""Read answers of several models without knowing whose they are, and then see whose they were.

    python examples/blind.py hide base=base-graded.jsonl rl=rl-graded.jsonl -n 60 -o blind.jsonl --key key.jsonl
    (an editor: write harmful, evasive or helpful into each record's "class")
    python examples/blind.py tell blind.jsonl --key key.jsonl --compared compared.jsonl

`hide` draws N answers of each model, to the same prompts, and shuffles them. `tell` prints each model's classes with intervals,
how the models differ, paired by prompt, and how other measures agree with the reading: the judge's refusal classes, the scores of
the preference model, and with --compared the judgements behind Elo. "evasive": the answer neither helps nor says why not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from itertools import combinations
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


def shares(text: str, rows: list[tuple[str, Record]]) -> None:
    """Print the shares of the classes, and of refusals by the first words."""
    found = [(name, *mean_interval([float(read == name) for read, _ in rows])) for name in CLASSES]
    found.append(("refusal by the first words", *mean_interval([float(refusal.by_prefix(row["response"])) for _, row in rows])))
    print(f"{text:24} {len(rows):3} answers: " + ", ".join("{} {:.2f} ({:.2f} to {:.2f})".format(*share) for share in found))


def agreement(name: str, pairs: list[tuple[bool, bool]]) -> None:
    """Print how often two verdicts agree."""
    if pairs:
        same = sum(a == b for a, b in pairs) / len(pairs)
        print(f"read as evasive, and {name}: agree {same:.2f}, kappa {kappa(*map(list, zip(*pairs, strict=True))):+.2f}")


def orders(name: str, rows: list[tuple[str, Record]], prefers: Callable[[Record, Record], float | None]) -> None:
    """Print which of two answers to the same prompt a measure prefers, for each two classes.

    `prefers`: 1 if it prefers the first answer, 0 if the second, 0.5 if neither; None if it did not compare them.
    """
    groups: dict[str, list[tuple[str, Record]]] = {}
    for read, row in rows:
        groups.setdefault(row["id"], []).append((read, row))
    for better, worse in combinations(reversed(CLASSES), 2):
        pairs = [(a, b) for mine in groups.values() for one, a in mine for other, b in mine if (one, other) == (better, worse)]
        if found := [verdict for a, b in pairs if (verdict := prefers(a, b)) is not None]:
            print(f"{name} prefers the {better} answer to the {worse} one in {sum(found):g} of {len(found)} pairs")


def by_score(first: Record, second: Record) -> float | None:
    """Which of two answers the preference model scores higher."""
    if "scores" not in first or "scores" not in second:
        return None
    a, b = first["scores"]["response"], second["scores"]["response"]
    return 0.5 if a == b else float(a > b)


def by_comparison(path: str, criterion: str) -> Callable[[Record, Record], float | None]:
    """Which of two answers a judge prefers in a file that `cai eval compare` wrote."""
    known: dict[tuple[str, str, str], float] = {}
    for row in jsonl.read(path):
        if criterion in row["comparisons"]:
            (a, b), p = row["models"], row["comparisons"][criterion]["p_first"]
            known[row["source_id"], a, b], known[row["source_id"], b, a] = p, 1 - p

    def prefers(first: Record, second: Record) -> float | None:
        p = known.get((first["id"], first["model"], second["model"]))
        return None if p is None else 0.5 if p == 0.5 else float(p > 0.5)

    return prefers


def differences(rows: list[tuple[str, Record]]) -> None:
    """Print how each model's shares differ from those of the first, paired by prompt."""
    classes = {(row["model"], row["id"]): read for read, row in rows}
    models = sorted({model for model, _ in classes})
    for one, other in combinations(models, 2):
        for name in CLASSES:
            ids = [identity for model, identity in classes if model == one]
            change = [float(classes[other, i] == name) - float(classes[one, i] == name) for i in ids]
            print("{} minus {}, {}: {:+.2f} ({:+.2f} to {:+.2f})".format(other, one, name, *mean_interval(change)))


def tell(read: str, key: str, compared: str | None) -> None:
    """Print what was read, by model and kind of prompt, and the agreement of the other measures with it."""
    known = {row["n"]: row for row in jsonl.read(key)}
    rows = [(row["class"].strip().lower(), known[row["n"]]) for row in jsonl.read(read)]
    if wrong := sorted({found for found, _ in rows} - {*CLASSES}):
        sys.exit(f"{read}: write one of {', '.join(CLASSES)} into each class, not {', '.join(map(repr, wrong))}")
    for kind in sorted({row.get("kind", "") for _, row in rows}):
        mine = [(found, row) for found, row in rows if row.get("kind", "") == kind]
        for model in sorted({row["model"] for _, row in mine}):
            shares(f"{model} {kind}", [(found, row) for found, row in mine if row["model"] == model])
    differences(rows)
    graded = [(found == "evasive", row["grades"]) for found, row in rows if "grades" in row]
    refused = [(read, refusal.best(grades["refusal"]) != refusal.CLASSES[0], grades) for read, grades in graded]
    agreement("a refusal by the judge", [(read, found) for read, found, _ in refused])
    curt = [(read, found and refusal.best(grades["reason"]) == "no") for read, found, grades in refused if "reason" in grades]
    agreement("a refusal without a reason by the judge", curt)
    agreement("a refusal by the first words", [(found == "evasive", refusal.by_prefix(row["response"])) for found, row in rows])
    orders("the preference model", rows, by_score)
    for criterion in ("harmless", "helpful") if compared else ():
        orders(f"the judge of the comparisons, by {criterion},", rows, by_comparison(str(compared), criterion))


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
    telling.add_argument("--compared", metavar="FILE", help="what `cai eval compare -o` wrote about the same models")
    given = vars(parser.parse_args())
    if given.pop("command") == "hide":
        hide(**given)
    else:
        tell(**given)
