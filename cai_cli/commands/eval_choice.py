"""How well a model judges pairs of answers of which the better one is known.

    cai eval choice comparisons.jsonl -m MODEL -o judged.jsonl     few-shot; direct with --few-shot 0, reasoned with --cot
    cai eval choice comparisons.jsonl -m PM -o judged-pm.jsonl     a preference model

Takes preferences (`prompt`, `chosen`, `rejected`) and the paper's evaluation form (`prompt`, `corrects`,
`incorrects`; its section 1.1 and figure 4). A preference is asked about as `cai label` would, its better answer
being first or second by a hash of the id; a question of the paper's form by the sentence that stands in it. A
preference model's probability is the logistic function of the difference of its scores.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Any

from typer import Option

from cai_cli import foreign, models, prompts, streams
from cai_cli.commands import eval_judges
from cai_cli.commands.judge import Judge, Judging
from cai_cli.commands.options import IO, Model, Principles, Sampling
from cai_cli.commands.score import Scoring
from cai_cli.commands.session import Session
from cai_cli.constitution import Principle
from cai_cli.errors import InputError
from cai_cli.jsonl import Record
from cai_cli.records import Messages, preference_error, sides
from cai_cli.seeds import draw


@dataclass(frozen=True)
class Question:
    """A pair whose better answer is known; `compare` is the sentence that it brings, if it does."""

    prompt: Messages
    responses: list[str]
    correct: int
    compare: str | None = None


def question(record: Record) -> Question:
    """The question of a record. ValueError says why it isn't one."""
    if "corrects" in record:
        return Question(*foreign.evaluation(record))
    if error := preference_error(record):
        raise ValueError(error)
    prompt, chosen, rejected = sides(record)
    correct = draw("position", record["id"]) % 2
    return Question(prompt, [rejected, chosen] if correct else [chosen, rejected], correct)


def check(record: Record) -> str | None:
    """What keeps a record from being judged, or None."""
    try:
        question({"id": "", **record})
    except ValueError as problem:
        return str(problem)
    return None


class Judged:
    """Keeps the probability that each pair's right answer was given. See `stage.Observer`."""

    full = False

    def __init__(self) -> None:
        self.name, self.values, self._row = "", list[float](), Record()

    def reason(self, record: Record) -> None:
        """Take one more."""
        self.values.append(record["judged"]["p_correct"])

    def summary(self) -> Record:
        """The measures."""
        return self.row() if self.values else {}

    def row(self) -> Record:
        """The measures, computed once."""
        if not self._row:
            self._row = eval_judges.row(self.name, self.values)
        return self._row


def judged(record: Record, asked: Question, p_first: float, more: Record) -> Record:
    """The record with what a judge made of it."""
    p = p_first if asked.correct == 0 else 1 - p_first
    return {**record, "judged": {"correct": asked.correct, "p_correct": p, **more}}


@dataclass
class Files(IO):
    """As everywhere, but that the table is what is printed."""

    output: Annotated[
        str | None, Option("--output", "-o", help="Write each pair with its judgement; with - the table goes to standard error.")
    ] = None  # type: ignore[assignment]


def choice(files: Files, model: Model, sampling: Sampling, charter: Principles, judging: Judging) -> None:
    """Judge pairs, and say how well."""
    seen = Judged()
    out = streams.claim_stdout() if files.output != "-" and files.dry_run is None else None
    files.output = files.output or os.devnull
    if models.is_preference_model(models.resolve(model.model)):
        if (charter, judging) != (Principles(), Judging()):
            raise InputError(f"{model.model} is a preference model, which takes neither principles nor examples nor reasoning")
        _score(files, model, sampling, seen)
    else:
        _ask(files, model, sampling, charter, judging, seen)
    if files.dry_run is None and seen.values:
        table = eval_judges.table([seen.row()])
        streams.print_table(table, out) if out else streams.console.print(table)
    if out:
        out.close()


def _ask(files: IO, model: Model, sampling: Sampling, charter: Principles, judging: Judging, seen: Judged) -> None:
    """Ask a language model, as `cai label` does."""
    session = Session(files, model, sampling)
    judge = Judge(session, charter.load(), judging)
    seen.name = "reasoned" if judging.cot else "few-shot" if judge.shown("") else "direct"
    # a question of the paper's form brings its own sentence, unless principles are asked for
    own_sentence = charter == Principles() and judging.principles_per_pair == "1"

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        asked = question(record)
        pair = {"id": record["id"], "prompt": asked.prompt, "responses": asked.responses}
        own = [Principle("its-own", compare=asked.compare)] if asked.compare and own_sentence else None
        [found], _ = yield from judge.judge(pair, [(0, 1)], own)
        return [judged(record, asked, found["p_first"], found)]

    options = {**judge.options(), "own_sentence": own_sentence}
    session.run("eval choice", check, program, judge.constitution, observer=seen, **options)


def _score(files: IO, model: Model, sampling: Sampling, seen: Judged) -> None:
    """Let a preference model score both answers."""
    m = model
    scoring = Scoring(files, m.model, m.dtype.value, m.batch_size, sampling.format.value, m.engine.value, m.gpu_memory)
    seen.name = "PM score"

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        asked = question(record)
        texts = [prompts.judged(asked.prompt, text, scoring.format) for text in asked.responses]
        first, second = yield [scoring.renderer.judgement(text) for text in texts]
        p_first = 1 / (1 + math.exp(min(second.score - first.score, 700)))
        return [judged(record, asked, p_first, {"scores": [first.score, second.score]})]

    scoring.run("eval choice", check, program, seen)
