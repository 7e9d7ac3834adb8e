"""AI feedback: from option log probabilities to soft preferences (paper, section 4.1).

A pair of answers is judged by several queries: one per principle, order and (with reasoning) sample. The label is
their mean. Each query's principle and few-shot examples depend only on the seed, the id and the pair.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, pstdev

from cai_cli.data.jsonl import Record
from cai_cli.data.records import Label, as_messages, assistant
from cai_cli.data.transcripts import PRINCIPLE_PLACEHOLDER
from cai_cli.engines.base import Choice, Completion
from cai_cli.method import prompts
from cai_cli.method.constitution import ROUND, Constitution, Principle
from cai_cli.pipeline.seeds import draw

PREFIXES = 16
"""Different sets of few-shot examples in a run: few, so that many queries share each and an engine computes each once."""


def normalise(logprobs: dict[str, float]) -> dict[str, float]:
    """Probabilities that sum to 1 over the options: the softmax of their log probabilities (section 4.1)."""
    top = max(logprobs.values())
    weights = {name: math.exp(value - top) for name, value in logprobs.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def pairs(answers: int, how: str, seed: int, identity: str) -> list[tuple[int, int]]:
    """Which pairs of a record's answers are compared: the `first` two, `all`, or `random:K` pairs drawn from (seed, id)."""
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

    Each example draws its own principle, as in the paper (section 4.1, appendix E.2). (A) and (B) are right equally often,
    in a drawn order. With an odd number of examples, the letter that is right once more is drawn too.
    """
    examples = constitution.examples.comparison[:count]
    chance = random.Random(draw(seed, "letters", number))
    first = chance.randrange(2)  # which letter an odd number of examples has once more
    letters = [prompts.OPTIONS[(i + first) % 2] for i in range(len(examples))]
    chance.shuffle(letters)
    shown = []
    for i, (example, letter) in enumerate(zip(examples, letters, strict=True)):
        answers = (example.better, example.worse) if letter == "A" else (example.worse, example.better)
        compare = constitution.draw(seed, ROUND, f"example-{number}", i).compare or ""
        shown.append((prompts.comparison_question(example.prompt, *answers, compare), letter))
    return shown


def shown_reasoning(constitution: Constitution, count: int | None, seed: int, number: int) -> list[str]:
    """Prefix `number` of a run with reasoning: the first `count` examples (None: all), each with its own principle."""
    shown = []
    for i, example in enumerate(constitution.examples.reasoned[:count]):
        compare = constitution.draw(seed, ROUND, f"example-{number}", i).compare or ""
        shown.append(example.replace(PRINCIPLE_PLACEHOLDER, f"{compare} Options:", 1))
    return shown


# Labels -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Query:
    """One question to the judge about a pair of answers."""

    pair: tuple[int, int]
    principle: Principle
    order: str
    """"ab": the pair's first answer is shown as (A); "ba": as (B)."""
    sample: int = 0
    """The number of the sample, if reasoning is sampled several times."""
    p_first: float = math.nan
    """The probability that the pair's first answer is the better one; NaN until the query is answered."""
    reasoning: Completion | None = None
    """What the judge wrote before its letter."""
    mass: float = math.nan
    """The probability of the two letters together, over the whole vocabulary."""
    outside: int = 0
    """How many of the two letters have only an upper bound; see `Choice.outside`."""

    def answered(self, choice: Choice, clamp: tuple[float, float] | None) -> Query:
        """The query with its probability, limited to `clamp`: with reasoning the paper clamps to 40-60% (section 4.1)."""
        p = normalise(choice.logprobs)["A" if self.order == "ab" else "B"]
        p = min(max(p, clamp[0]), clamp[1]) if clamp else p
        return replace(self, p_first=p, mass=sum(map(math.exp, choice.logprobs.values())), outside=choice.outside)


def label(queries: Sequence[Query], cut: int = 0) -> Label:
    """The label of a pair from its answered queries: `p_first`, their mean, and the means by order and by principle.

    `cut`: how many more queries have no answer.
    """
    ids = list(dict.fromkeys(query.principle.id for query in queries))
    by_principle = {i: fmean(q.p_first for q in queries if q.principle.id == i) for i in ids}
    orders = {order: [q.p_first for q in queries if q.order == order] for order in ("ab", "ba")}
    found: Label = {
        "principles": ids,
        "p_first": fmean(query.p_first for query in queries),
        "orders": {order: fmean(values) for order, values in orders.items() if values},
        "mass": fmean(query.mass for query in queries),
    }
    if outside := sum(query.outside for query in queries):
        found["outside"] = outside
    if cut:
        found["cut"] = cut
    if len(ids) > 1:
        found["by_principle"] = by_principle
        found["spread"] = pstdev(by_principle.values())
    if queries[0].reasoning:
        found["reasoning"] = [
            {
                "principle": q.principle.id,
                "order": q.order,
                "text": q.reasoning.text.strip(),
                "p_first": q.p_first,
                "meta": q.reasoning.meta(),
            }
            for q in queries
            if q.reasoning
        ]
    return found


UNDECIDED: Label = {"principles": [], "p_first": 0.5, "orders": {}, "identical": True}
"""The label of two identical answers: the judge is not asked about them."""


def preference(record: Record, pair: tuple[int, int], found: Label, meta: Record) -> Record:
    """The preference record of one pair. `chosen` is the answer that the label prefers, or the first if the label is even."""
    p, (i, j) = found["p_first"], pair
    best, worst = (i, j) if p >= 0.5 else (j, i)
    texts = record["responses"]
    return {
        **record,
        "id": f"{record['id']}/{i}-{j}",
        "prompt": as_messages(record["prompt"]),
        "chosen": [assistant(texts[best])],
        "rejected": [assistant(texts[worst])],
        "p_chosen": max(p, 1 - p),
        "label": {"pair": [i, j], **found},
        "source_id": record["id"],
        "meta": {**record.get("meta", {}), "label": meta},
    }
