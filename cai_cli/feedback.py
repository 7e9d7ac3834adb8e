"""AI feedback: from option log probabilities to soft preferences (paper, section 4.1).

A pair of answers is judged by several `Reading`s: one a principle, order, and (with reasoning) sample. The label is
their mean. What a reading is asked by, and the few-shot examples that it's shown, come from (seed, id) alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean, pstdev

from cai_cli import prompts
from cai_cli.constitution import Constitution, Principle
from cai_cli.engines.base import Choice, Completion
from cai_cli.foreign import REASONED_HOLE
from cai_cli.jsonl import Record
from cai_cli.records import as_messages
from cai_cli.seeds import draw

PREFIXES = 16
"""Draws of few-shot examples in a run: few, so that many questions share each, and an engine computes it once."""


def normalise(logprobs: dict[str, float]) -> dict[str, float]:
    """Probabilities of the options alone: the softmax of their log probabilities."""
    top = max(logprobs.values())
    weights = {name: math.exp(value - top) for name, value in logprobs.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def pairs(answers: int, how: str, seed: int, identity: str) -> list[tuple[int, int]]:
    """Which of a record's answers are compared: `first` two, `all` pairs, or `random:K` of them drawn from (seed, id)."""
    every = list(combinations(range(answers), 2))
    if how == "first":
        return every[:1]
    if how == "all":
        return every
    count = int(how.removeprefix("random:"))
    return sorted(random.Random(draw(seed, "pairs", identity)).sample(every, min(count, len(every))))


# Few-shot examples --------------------------------------------------------------------------------


def shown_comparisons(constitution: Constitution, count: int | None, seed: int, number: int) -> list[tuple[str, str]]:
    """Prefix `number` of a run: the first `count` examples (None: all) as (question, letter of the better answer).

    Each draws its own principle, as in the paper. (A) and (B) are right equally often, in an order that is drawn; of an
    odd number, which of them is right once more is drawn too.
    """
    examples = constitution.examples.comparison[:count]
    chance = random.Random(draw(seed, "letters", number))
    first = chance.randrange(2)  # which letter an odd number of examples has once more
    letters = [prompts.OPTIONS[(i + first) % 2] for i in range(len(examples))]
    chance.shuffle(letters)
    shown = []
    for i, (example, letter) in enumerate(zip(examples, letters, strict=True)):
        answers = (example.better, example.worse) if letter == "A" else (example.worse, example.better)
        compare = constitution.draw(seed, f"example-{number}", i).compare or ""
        shown.append((prompts.question(example.prompt, *answers, compare), letter))
    return shown


def shown_reasoning(constitution: Constitution, count: int | None, seed: int, number: int) -> list[str]:
    """Prefix `number` of a run with reasoning: the first `count` examples (None: all), each with a principle of its own."""
    shown = []
    for i, example in enumerate(constitution.examples.reasoned[:count]):
        compare = constitution.draw(seed, f"example-{number}", i).compare or ""
        shown.append(example.replace(REASONED_HOLE, f"{compare} Options:", 1))
    return shown


# Labels -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """One question about a pair: by which principle, in which order ("ab": the first answer is (A)), in which sample.

    `p_first` is the probability that the first answer is the better one, once it's known; `thoughts` what the model wrote
    before.
    """

    pair: tuple[int, int]
    principle: Principle
    order: str
    sample: int = 0
    p_first: float = math.nan
    thoughts: Completion | None = None

    def answered(self, choice: Choice, clamp: tuple[float, float] | None, thoughts: Completion | None) -> Reading:
        """The reading with its probability, kept within `clamp`."""
        p = normalise(choice.logprobs)["A" if self.order == "ab" else "B"]
        p = min(max(p, clamp[0]), clamp[1]) if clamp else p
        return Reading(self.pair, self.principle, self.order, self.sample, p, thoughts)


def judgement(readings: Sequence[Reading]) -> Record:
    """What the readings of a pair say together: `p_first`, the mean, and what it is the mean of."""
    ids = list(dict.fromkeys(reading.principle.id for reading in readings))
    by_principle = {i: fmean(r.p_first for r in readings if r.principle.id == i) for i in ids}
    orders = {order: [r.p_first for r in readings if r.order == order] for order in ("ab", "ba")}
    found: Record = {
        "principles": ids,
        "p_first": fmean(reading.p_first for reading in readings),
        "orders": {order: fmean(values) for order, values in orders.items() if values},
    }
    if len(ids) > 1:
        found |= {"by_principle": by_principle, "spread": pstdev(by_principle.values())}
    if readings[0].thoughts:
        found["reasoning"] = [
            {"principle": r.principle.id, "order": r.order, "text": r.thoughts.text.strip(), "p_first": r.p_first}
            | {"meta": r.thoughts.meta()}
            for r in readings
            if r.thoughts
        ]
    return found


UNDECIDED: Record = {"principles": [], "p_first": 0.5, "orders": {}, "identical": True}
"""The judgement of identical answers, about which no model is asked."""


def preference(record: Record, pair: tuple[int, int], judged: Record, meta: Record) -> Record:
    """One preference record of a pair record: `chosen` is the answer that the judgement favours, the first where it's even."""
    p, (i, j) = judged["p_first"], pair
    best, worst = (i, j) if p >= 0.5 else (j, i)
    texts = record["responses"]
    return {
        **record,
        "id": f"{record['id']}/{i}-{j}",
        "prompt": as_messages(record["prompt"]),
        "chosen": [{"role": "assistant", "content": texts[best]}],
        "rejected": [{"role": "assistant", "content": texts[worst]}],
        "p_chosen": max(p, 1 - p),
        "label": {"pair": [i, j], **judged},
        "source_id": record["id"],
        "meta": {**record.get("meta", {}), "label": meta},
    }


@dataclass
class PositionBias:
    """How much a judge goes by an answer's place, over the pairs that it saw in both orders. See `stage.Observer`."""

    differences: list[float] = field(default_factory=list)
    flipped: int = 0
    identical: int = 0
    full = False

    def reason(self, record: Record) -> None:
        """Count a record that has a `label`."""
        label = record["label"]
        self.identical += bool(label.get("identical"))
        if len(label["orders"]) == 2:
            ab, ba = label["orders"]["ab"], label["orders"]["ba"]
            self.differences.append(ab - ba)
            self.flipped += (ab - 0.5) * (ba - 0.5) < 0

    def summary(self) -> Record:
        """`mean_difference`: of an answer's probability as (A) less as (B), 0 for a fair judge; `flipped`: share of the pairs
        whose winner depends on the order. Absent where no pair was seen in both orders.
        """
        found: Record = {"identical": self.identical}
        if count := len(self.differences):
            bias = {"pairs": count, "mean_difference": fmean(self.differences), "flipped": self.flipped / count}
            found["position_bias"] = bias
        return found

    def sentence(self) -> str:
        """The same for people; empty where there is nothing to say."""
        found, parts = self.summary(), []
        if bias := found.get("position_bias"):
            side = "A" if bias["mean_difference"] >= 0 else "B"
            size, share = abs(bias["mean_difference"]), bias["flipped"]
            parts.append(f"position bias: {size:.2f} in favour of ({side}); the order decides {share:.0%} of pairs")
        if self.identical:
            parts.append(f"{self.identical} of identical answers, labelled 0.5")
        return "; ".join(parts)
