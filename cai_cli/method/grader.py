"""The feedback model as a grader of single answers: the program of `cai grade`.

Each criterion is asked with its classes in both orders. The grade is the mean of the probabilities of the classes' letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from statistics import fmean

from cai_cli.data.jsonl import Record, as_object
from cai_cli.data.records import Grade, current_answer, require_answered
from cai_cli.engines.base import Choice, Completion, Steps
from cai_cli.errors import Skipped
from cai_cli.method import feedback, prompts
from cai_cli.method.judge import Asking
from cai_cli.method.prompts import Prompt
from cai_cli.method.rubrics import Criterion
from cai_cli.method.tokens import Asker


@dataclass(frozen=True)
class _Query:
    """One question to the judge about an answer."""

    answer: int
    criterion: Criterion
    order: str
    sample: int

    @property
    def names(self) -> list[str]:
        """The classes in the order in which they are shown."""
        return list(self.criterion.classes)[:: 1 if self.order == "ab" else -1]

    @property
    def letters(self) -> tuple[str, ...]:
        return prompts.LETTERS[: len(self.criterion.classes)]


class Grader:
    """A feedback model that grades answers."""

    def __init__(self, asker: Asker, asking: Asking) -> None:
        self.asker, self.asking = asker, asking

    def grade(self, record: Record, rubric: Sequence[Criterion]) -> Steps[Record]:
        """The record with `grades` and what they were made of in its `meta`: of its `responses`, or of its current answer.

        Skipped if an answer ended inside its reasoning, or if the judge's reasoning was cut in every query of an order.
        """
        require_answered(record)
        several = "responses" in record
        answers = record["responses"] if several else [current_answer(record)]
        queries = [
            _Query(i, criterion, order, sample)
            for i in range(len(answers))
            for criterion in rubric
            for order in self.asking.orders
            for sample in range(self.asking.cot_samples)
        ]
        asked = [self._asked(record, answers[q.answer], q) for q in queries]
        reasons: list[Completion | None] = [None] * len(queries)
        if self.asking.cot:
            seeds = [("grade", record["id"], q.answer, q.criterion.id, q.order, q.sample) for q in queries]
            written: list[Completion] = yield [self.asker.request(p, *s) for p, s in zip(asked, seeds, strict=True)]
            kept = [i for i, done in enumerate(written) if done.finish == "stop" or self.asking.keep_cut]
            asked = [prompts.after_reasoning(asked[i], written[i].text) for i in kept]
            queries, reasons = [queries[i] for i in kept], [written[i] for i in kept]
        choices: list[Choice] = yield [self.asker.renderer.choice(p, q.letters) for p, q in zip(asked, queries, strict=True)]
        found = list(zip(queries, choices, reasons, strict=True))
        made = [
            [self._grade([f for f in found if f[0].answer == i and f[0].criterion is c]) for c in rubric]
            for i in range(len(answers))
        ]
        grades, details = dict(as_object(record.get("grades"))), dict(as_object(as_object(record.get("meta")).get("grades")))
        for column, criterion in enumerate(rubric):
            each, more = zip(*(row[column] for row in made), strict=True)
            grades[criterion.id] = list(each) if several else each[0]
            details[criterion.id] = list(more) if several else more[0]
        return {**record, "grades": grades, "meta": {**record.get("meta", {}), "grades": details}}

    def _asked(self, record: Record, answer: str, query: _Query) -> Prompt:
        options = [query.criterion.classes[name] for name in query.names]
        make = prompts.grading_reasoning if self.asking.cot else prompts.grading
        return make(record["prompt"], answer, query.criterion.question, options, self.asker.format)

    def _grade(self, found: list[tuple[_Query, Choice, Completion | None]]) -> tuple[Grade, Record]:
        """(the probability of each class, what it was made of) from the answered queries of one answer and criterion."""
        if {query.order for query, _, _ in found} != set(self.asking.orders):
            raise Skipped("the judge's reasoning was cut by --max-tokens, so there is no grade; raise it, or give --keep-cut")
        shares = [self._classes(query, choice) for query, choice, _ in found]
        names = list(found[0][0].criterion.classes)
        details: Record = {
            "orders": {
                order: fmean(share[names[0]] for share, (query, _, _) in zip(shares, found, strict=True) if query.order == order)
                for order in self.asking.orders
            },
            "mass": fmean(sum(map(exp, choice.logprobs.values())) for _, choice, _ in found),
            "prompt_tokens": sum(choice.prompt_tokens for _, choice, _ in found),
        }
        reasoning = [
            {"order": query.order, "text": done.text.strip(), "p": share[names[0]], "meta": done.meta()}
            for share, (query, _, done) in zip(shares, found, strict=True)
            if done
        ]
        if reasoning:
            details["reasoning"] = reasoning
        return {name: fmean(share[name] for share in shares) for name in names}, details

    def _classes(self, query: _Query, choice: Choice) -> Grade:
        found = feedback.normalise(choice.logprobs)
        return {name: found[letter] for name, letter in zip(query.names, query.letters, strict=True)}
