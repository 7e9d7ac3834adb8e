"""AI feedback: from option log probabilities to a soft preference (paper, section 4.1)."""

from __future__ import annotations

import math

from cai_cli.jsonl import Record
from cai_cli.records import as_messages


def normalise(logprobs: dict[str, float]) -> dict[str, float]:
    """Probabilities of the options alone: the softmax of their log probabilities."""
    top = max(logprobs.values())
    weights = {name: math.exp(value - top) for name, value in logprobs.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def preference(
    record: Record, i: int, j: int, principle: str | None, p_ab: float | None, p_ba: float | None, meta: Record
) -> Record:
    """One preference record from answers i and j of a pair record.

    `p_ab` is the probability that answer i is better when it is shown first, `p_ba` when it is
    shown second; both None for identical answers, which are labelled 0.5 and marked so. The
    label is their mean, and `chosen` is the answer that it favours.
    """
    orders = {} if p_ab is None or p_ba is None else {"ab": p_ab, "ba": p_ba}
    p = sum(orders.values()) / len(orders) if orders else 0.5
    best, worst = (i, j) if p >= 0.5 else (j, i)
    label: Record = {"pair": [i, j], "principles": [principle] if principle else [], "p_first": p, "orders": orders}
    if not orders:
        label["identical"] = True
    texts = record["responses"]
    return {
        **record,
        "id": f"{record['id']}/{i}-{j}",
        "prompt": as_messages(record["prompt"]),
        "chosen": [{"role": "assistant", "content": texts[best]}],
        "rejected": [{"role": "assistant", "content": texts[worst]}],
        "p_chosen": max(p, 1 - p),
        "label": label,
        "source_id": record["id"],
        "meta": {**record.get("meta", {}), **meta},
    }
