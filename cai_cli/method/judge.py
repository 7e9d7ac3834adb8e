"""The feedback model as a judge of pairs (paper, section 4.1): the program that `cai label` and `cai eval choice` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from cai_cli.data.jsonl import Record
from cai_cli.data.records import Label, require_answered
from cai_cli.engines.base import Choice, Completion, Steps
from cai_cli.method import feedback, prompts
from cai_cli.method.constitution import Constitution, Principle
from cai_cli.method.feedback import Query
from cai_cli.method.prompts import Prompt
from cai_cli.method.tokens import Asker
from cai_cli.pipeline.seeds import draw

Shown = list[tuple[str, str]] | list[str]
"""Few-shot examples: (question, letter of the better answer), or with reasoning whole transcripts."""


@dataclass(frozen=True)
class Asking:
    """How a judge is asked, about a pair or about a single answer."""

    orders: tuple[str, ...] = ("ab", "ba")
    """The orders of the options: "ab" has a pair's first answer as (A), "ba" the last of the options."""
    cot: bool = False
    """Whether the model reasons before it answers (chain of thought; section 4.1)."""
    cot_samples: int = 1
    """How many samples of reasoning are averaged, with `cot` (five in figure 4)."""
    keep_cut: bool = False
    """Whether a query whose reasoning ran to --max-tokens is answered too, after the part of it that there is."""

    def options(self) -> dict[str, Any]:
        """The settings as a fingerprint holds them (JSON: lists, no tuples)."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class JudgeSettings(Asking):
    """How a pair of answers is judged."""

    principles_per_pair: int = 1
    """How many principles are drawn per pair; the label is the mean over them."""
    few_shot: int | None = None
    """How many of the constitution's examples are shown; None for all."""
    clamp: tuple[float, float] | None = None
    """The lowest and the highest probability of a query (0.4 and 0.6 in the paper, with `cot`); None for no bounds."""


class Judge:
    """A feedback model with a constitution and settings."""

    def __init__(self, asker: Asker, constitution: Constitution, settings: JudgeSettings) -> None:
        """InputError if a principle has no `compare` text."""
        constitution.require("compare")
        self.asker, self.constitution, self.settings = asker, constitution, settings
        self._shown: dict[int, Shown] = {}

    def shown(self, identity: str) -> Shown:
        """The few-shot examples of a record's queries: one of PREFIXES prefixes, so that many records share each."""
        number = draw(self.asker.seed, "prefix", identity) % feedback.PREFIXES
        if number not in self._shown:
            prefix = self.constitution, self.settings.few_shot, self.asker.seed, number
            made: Shown = feedback.shown_reasoning(*prefix) if self.settings.cot else feedback.shown_comparisons(*prefix)
            self._shown[number] = made
        return self._shown[number]

    def judge(
        self, record: Record, pairs: Sequence[tuple[int, int]], principles: Sequence[Principle] | None = None
    ) -> Steps[tuple[list[Label | None], list[Record]]]:
        """(labels, metas) of `pairs` of the record's `responses`, in their order. `principles` replace the drawn ones.

        A label is None if the judge's reasoning was cut in every query of an order (unless `keep_cut`). Skipped if an answer of
        the record ended inside its own reasoning.
        """
        require_answered(record)
        record = self.asker.shown(record)
        queries = self._queries(record, pairs, principles)
        asked = [self._asked(record, query) for query in queries]
        if self.settings.cot:
            seeds = [(record["id"], *q.pair, q.principle.id, q.order, q.sample) for q in queries]
            reasons: list[Completion] = yield [self.asker.request(p, "label", *s) for p, s in zip(asked, seeds, strict=True)]
            whole = [i for i, done in enumerate(reasons) if done.finish == "stop" or self.settings.keep_cut]
            asked = [prompts.after_reasoning(asked[i], reasons[i].text) for i in whole]
            queries, every = [replace(queries[i], reasoning=reasons[i]) for i in whole], queries
        else:
            every = queries
        choices: list[Choice] = yield [self.asker.renderer.choice(prompt, prompts.OPTIONS) for prompt in asked]
        found = [query.answered(choice, self.settings.clamp) for query, choice in zip(queries, choices, strict=True)]
        labels, metas = [], []
        for pair in pairs:
            mine = [i for i, query in enumerate(found) if query.pair == tuple(pair)]
            wanted = [query for query in every if query.pair == tuple(pair)]
            labels.append(self._label([found[i] for i in mine], wanted))
            metas.append({"prompt_tokens": sum(choices[i].prompt_tokens for i in mine)})
        return labels, metas

    def _label(self, answered: list[Query], every: list[Query]) -> Label | None:
        """The label of a pair from those of its queries that have an answer; None if none of an order has one."""
        if not every:
            return feedback.UNDECIDED
        # a label from one of two orders would have the preference for a position that the other one removes
        if {query.order for query in answered} != {query.order for query in every}:
            return None
        return feedback.label(answered, len(every) - len(answered))

    def principles(self, record: Record, pair: tuple[int, int]) -> list[Principle]:
        """The principles by which a pair is judged, drawn for each pair (paper, section 4.1)."""
        # "label" is part of the draw, so that the first principle is not always that of the first critique of the same id
        i, j = pair
        return self.constitution.draw_several(
            self.asker.seed, "label", f"{record['id']}/{i}-{j}", self.settings.principles_per_pair
        )

    def _queries(self, record: Record, pairs: Sequence[tuple[int, int]], principles: Sequence[Principle] | None) -> list[Query]:
        """One query per pair, principle, order and sample; none for a pair of identical answers."""
        texts = record["responses"]
        return [
            Query((i, j), principle, order, sample)
            for i, j in pairs
            if texts[i] != texts[j]
            for principle in principles or self.principles(record, (i, j))
            for order in self.settings.orders
            for sample in range(self.settings.cot_samples)
        ]

    def _asked(self, record: Record, query: Query) -> Prompt:
        answers = [record["responses"][i] for i in query.pair]
        first, second = answers if query.order == "ab" else reversed(answers)
        asked = record["prompt"], first, second, query.principle, self.asker.format
        shown = self.shown(record["id"])
        if self.settings.cot:
            return prompts.reasoning(*asked, cast(list[str], shown))
        return prompts.comparison(*asked, cast(list[tuple[str, str]], shown))
