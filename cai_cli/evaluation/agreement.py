"""How far judges agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations
from statistics import fmean

from cai_cli.data.jsonl import Record


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa of two judges' verdicts: 1 if they always agree, 0 if no more often than by chance."""
    count = len(first)
    by_chance = sum(n * Counter(second)[verdict] for verdict, n in Counter(first).items()) / count**2
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    return 1.0 if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)


def agreement(verdicts: Sequence[Sequence[Hashable]]) -> Record:
    """Of several judges' verdicts on the same answers: on how many all agree, and the mean kappa of every two judges."""
    whole = fmean(len(set(each)) == 1 for each in zip(*verdicts, strict=True))
    return {"answers": len(verdicts[0]), "all_agree": whole, "kappa": fmean(kappa(a, b) for a, b in combinations(verdicts, 2))}
