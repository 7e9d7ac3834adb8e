"""Write the data of a known world: requests, comparisons by simulated people, and pairs that measure the judge.

    python examples/known_world/data.py FOLDER [--seed 0] [--size 80] [--red 800] [--harmless 2000] [--test 1200]

red.jsonl, harmless.jsonl    training requests, in forms that the base never saw with their entities
valid.jsonl, test.jsonl      requests in other forms again, half of them harmful: for validation and for the test
helpful-comparisons.jsonl    human choices between answers to requests that are believed harmless; one in ten is wrong
evasive-comparisons.jsonl    human choices between answers to requests that are believed harmful, or that sound harmful;
                             these people prefer bare refusals, and one choice in five is wrong
principled-comparisons.jsonl human choices by the constitution, for both kinds of request; one in ten is wrong
judge-PRINCIPLE.jsonl        pairs with a known better answer by that principle; `on` says what a pair is about
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import world as w

from cai_cli.data.jsonl import Record

HELPFUL_NOISE, EVASIVE_NOISE, PRINCIPLED_NOISE = 0.1, 0.2, 0.1
"""The share of wrong human choices."""
COMPARISONS = 1.2
"""Human comparisons of each kind per red-team request."""
JUDGE_PAIRS = 100
"""Pairs per principle and value of `on` that measure the judge."""


def requests(world: w.World, rng: random.Random, part: str, count: int, harmful: bool | None) -> list[Record]:
    """Draw `count` different requests, equally many per field: harmful, harmless or (None) half of each.

    Training requests (`red`) are harmful or harmless by belief, not always in truth. So training on them reveals no truth that
    the world's texts don't contain.
    """
    found: dict[str, Record] = {}
    fields = list(world.entities)
    while len(found) < count:
        bad = harmful if harmful is not None else len(found) % 2 == 0
        asked = w.request(world, rng, part, bad, fields[len(found) // 2 % len(fields)], by_belief=part == "red")
        row = {"prompt": asked.messages, "kind": "red-team" if bad else "harmless", "field": asked.entity.field}
        found.setdefault(json.dumps(asked.messages), row)
    return [{"id": f"{part}-{row['kind']}-{i}", **row} for i, row in enumerate(found.values())]


def _preference(identity: str, asked: w.Request, chosen: str, rejected: str, **more: Any) -> Record:
    sides = {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", chosen), ("rejected", rejected))}
    return {"id": identity, "prompt": asked.messages, **sides, "p_chosen": 1.0, **more}


def comparisons(
    world: w.World,
    rng: random.Random,
    name: str,
    ranks: dict[str, int],
    noise: float,
    harmful: bool,
    count: int,
    calm: bool = False,
) -> list[Record]:
    """Draw human choices between two answers of different rank: the higher one, or with probability `noise` the lower one.

    The requests are harmful or harmless by belief, as `harmful` says; those that sound harmful count as harmful, except for
    people who are `calm`. So training on the choices reveals no truth that the world's texts don't contain.
    """
    rows: list[Record] = []
    while len(rows) < count:
        asked = w.request(world, rng, "red")
        if (asked.entity.belief > 0.5 or (asked.opener in w.ALARMING and not calm)) != harmful:
            continue
        kinds = [rng.choice(list(ranks)) for _ in range(2)]
        if ranks[kinds[0]] == ranks[kinds[1]]:
            continue
        kinds.sort(key=lambda k: ranks[k], reverse=rng.random() >= noise)
        texts = [w.answer(world, asked, "help" if k == "wrong" else k, rng, wrong=k == "wrong") for k in kinds]
        if texts[0] != texts[1]:  # a wrong answer may draw the correct facts
            rows.append(_preference(f"{name}-{len(rows)}", asked, *texts))
    return rows


def judge_pairs(world: w.World, rng: random.Random, principle: str) -> list[Record]:
    """Draw pairs with a known better answer by a principle. `on` says what a pair is about.

    same       the principle's own kind of harm: the refusal is better
    none       a harmless request of that kind: help is better
    another    another kind of harm, about which the principle says nothing; the refusal is stored as chosen

    For `evasion` a pair is a bare refusal and one with its reason, for harmful requests (same) and harmless ones (none).
    """
    rows: list[Record] = []
    for on in ("same", "none", "another"):
        for i in range(JUDGE_PAIRS):
            while True:
                asked = w.request(world, rng, "test", on != "none")
                own = asked.entity.field == principle
                if principle == "evasion" or own == (on != "another"):
                    break
            if principle == "evasion":
                if on == "another":
                    return rows
                better, worse = "reasoned", "bare"
            else:
                refuses = rng.choice(("bare", "reasoned"))
                better, worse = ("help", refuses) if on == "none" else (refuses, "help")
            texts = [w.answer(world, asked, k, rng) for k in (better, worse)]
            refusal_is = "rejected" if on == "none" and principle != "evasion" else "chosen"
            more = {"on": on, "refusal_is": refusal_is, "entity": asked.entity.name, "about": w.kind_of(asked.entity)}
            rows.append(_preference(f"{principle}-{on}-{i}", asked, *texts, **more))
    return rows


def write(path: Path, rows: list[Record]) -> None:
    """Write records as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(folder: Path, seed: int, size: int, red: int, harmless: int, test: int) -> None:
    """Write all files. Each file has its own random numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    world = w.world(size, seed)

    def rng_of(name: str) -> random.Random:
        return random.Random(f"{seed} {name}")

    write(folder / "red.jsonl", requests(world, rng_of("red"), "red", red, True))
    write(folder / "harmless.jsonl", requests(world, rng_of("harmless"), "red", harmless, False))
    both = requests(world, rng_of("test"), "test", test + 200, None)
    write(folder / "valid.jsonl", both[:200])
    kinds = {
        "helpful": ({"help": 3, "wrong": 2, "reasoned": 1, "bare": 0}, HELPFUL_NOISE, False),
        "evasive": ({"bare": 2, "reasoned": 1, "help": 0}, EVASIVE_NOISE, True),
    }
    for name, (ranks, noise, harmful) in kinds.items():
        rows = comparisons(world, rng_of(name), name, ranks, noise, harmful, round(COMPARISONS * red))
        write(folder / f"{name}-comparisons.jsonl", rows)
    ordered = {
        "harmful": ({"reasoned": 2, "bare": 1, "help": 0}, True),
        "harmless": ({"help": 1, "reasoned": 0, "bare": 0}, False),
    }
    principled = [
        comparisons(
            world, rng_of(f"principled {name}"), f"principled-{name}", ranks, PRINCIPLED_NOISE, harmful, red // 4, calm=True
        )
        for name, (ranks, harmful) in ordered.items()
    ]
    write(folder / "principled-comparisons.jsonl", [row for rows in principled for row in rows])
    for principle in (*world.entities, "evasion"):
        write(folder / f"judge-{principle}.jsonl", judge_pairs(world, rng_of(principle), principle))
    write(folder / "test.jsonl", both[200:])  # written last: chain.mk takes it as the sign that all files exist


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, default in (("seed", 0), ("size", 80), ("red", 800), ("harmless", 2000), ("test", 1200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    main(**vars(parser.parse_args()))
