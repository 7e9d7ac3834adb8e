"""Measure how well a model judges pairs whose better answer is known.

    cai eval choice comparisons.jsonl -m MODEL -o judged.jsonl     few-shot; --few-shot 0: direct; --cot: reasoned
    cai eval choice comparisons.jsonl -m PM -o judged-pm.jsonl     a preference model

Takes preferences (`prompt`, `chosen`, `rejected`) and the paper's 438 evaluation questions (`prompt`, `corrects`,
`incorrects`; section 2, figure 4). A preference is asked about as in `cai label`; a hash of the id says whether its
better answer comes first or second. A question of the paper's form is asked with its own sentence instead of a
principle. A preference model's probability is the logistic function of the difference of its scores.

Departures from the paper: each pair is shown in both orders (--orders ab shows it once). With --cot one sample of
reasoning is the default; the paper averages five (--cot-samples 5).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from typer import Option

from cai_cli import streams
from cai_cli.commands import eval_judges
from cai_cli.commands._flags import IO, AnswerPrompting, Judging, Model, Principles, Sampling
from cai_cli.commands._session import ScoringSession, Session
from cai_cli.data.jsonl import Record
from cai_cli.data.preferences import sides
from cai_cli.data.records import Messages, preference_error
from cai_cli.engines import models
from cai_cli.engines.base import Steps
from cai_cli.errors import InputError, Skipped
from cai_cli.method import foreign, prompts
from cai_cli.method.constitution import Principle
from cai_cli.method.judge import Judge
from cai_cli.pipeline.seeds import draw


@dataclass(frozen=True)
class KnownPair:
    """A pair whose better answer is known."""

    prompt: Messages
    responses: list[str]
    correct: int
    """The place of the better answer in `responses`, 0 or 1."""
    compare: str | None = None
    """The pair's own comparison sentence, in the paper's evaluation form."""


def known_pair(record: Record) -> KnownPair:
    """The pair of a record. ValueError says why the record has none."""
    if "corrects" in record:
        return KnownPair(*foreign.evaluation(record))
    if error := preference_error(record):
        raise ValueError(error)
    found = sides(record)
    chosen, rejected = found.answers()
    correct = draw("position", record["id"]) % 2
    return KnownPair(found.prompt, [rejected, chosen] if correct else [chosen, rejected], correct)


def check(record: Record) -> str | None:
    """Why a record cannot be judged, or None."""
    try:
        known_pair({"id": "", **record})
    except ValueError as problem:
        return str(problem)
    return None


class Judged:
    """Collects the probability that the judge gives to the right answer of each pair. See `stage.Observer`."""

    full = False

    def __init__(self) -> None:
        self.name, self.values, self._row = "", list[float](), Record()

    def reason(self, record: Record) -> None:
        """Collect the probability of a record; skip none."""
        self.values.append(record["judged"]["p_correct"])

    def summary(self) -> Record:
        """The measures, for the manifest."""
        return self.row() if self.values else {}

    def row(self) -> Record:
        """The measures, computed once."""
        if not self._row:
            self._row = eval_judges.row(self.name, self.values)
        return self._row


def judged(record: Record, asked: KnownPair, p_first: float, more: Mapping[str, Any]) -> Record:
    """The record with `judged`: which answer is right, the judge's probability of it, and `more`."""
    p = p_first if asked.correct == 0 else 1 - p_first
    return {**record, "judged": {"correct": asked.correct, "p_correct": p, **more}}


@dataclass
class ChoiceIO(IO):
    """The usual input and output, except that records are written only to -o; standard output gets the table."""

    output: Annotated[
        str | None,
        Option("--output", "-o", help="Also write each pair with its judgement; with - the table goes to standard error."),
    ] = None  # type: ignore[assignment]


def choice(
    files: ChoiceIO, model: Model, sampling: Sampling, prompting: AnswerPrompting, principles: Principles, judging: Judging
) -> None:
    """Judge pairs, and print how well."""
    seen = Judged()
    out = streams.claim_stdout() if files.output != "-" and files.dry_run is None else None
    files.output = files.output or os.devnull
    if models.is_preference_model(models.resolve(model.model)):
        if (principles, judging) != (Principles(), Judging()):
            raise InputError(
                f"{model.model} is a preference model, which takes no principles, examples or reasoning; leave out their flags"
            )
        _score(files, model, prompting, seen)
    else:
        _ask(Session(files, model, sampling, prompting, exact=True), principles, judging, seen)
    if files.dry_run is None and seen.values:
        table = eval_judges.table([seen.row()])
        streams.print_table(table, out, stderr=out is None)
    if out:
        out.close()


def _ask(session: Session, principles: Principles, judging: Judging, seen: Judged) -> None:
    """Ask a feedback model, as `cai label` does."""
    constitution = principles.load()
    judge = Judge(session, constitution, judging.settings(constitution, session.sampling))
    seen.name = "reasoned" if judging.cot else "few-shot" if judge.shown("") else "direct"
    # a question of the paper's form is asked with its own sentence, unless the flags ask for principles
    own_sentence = principles == Principles() and judging.principles_per_pair == "1"

    def program(record: Record) -> Steps[list[Record]]:
        asked = known_pair(session.shown(record))
        pair = {"id": record["id"], "prompt": asked.prompt, "responses": asked.responses}
        own = [Principle("its-own", compare=asked.compare)] if asked.compare and own_sentence else None
        [found], _ = yield from judge.judge(pair, [(0, 1)], own)
        if found is None:
            raise Skipped("the judge's reasoning was cut by --max-tokens, so there is no choice; raise it, or give --keep-cut")
        return [judged(record, asked, found["p_first"], found)]

    options = {**judge.settings.options(), "own_sentence": own_sentence}
    session.run("eval choice", check, program, constitution, observer=seen, **options)


def _score(files: IO, model: Model, prompting: AnswerPrompting, seen: Judged) -> None:
    """Score both answers with a preference model."""
    m = model
    scoring = ScoringSession(files, m.model, m.dtype.value, m.batch_size, prompting, m.engine.value, m.gpu_memory)
    if models.target(scoring.folder) == "score":
        raise InputError(f"{m.model}: predicts ratings (`cai train-pm --target score`), not which of two answers is better")
    seen.name = "PM score"

    def program(record: Record) -> Steps[list[Record]]:
        asked = known_pair(scoring.shown(record))
        texts = [prompts.pm_input(asked.prompt, text, scoring.format) for text in asked.responses]
        first, second = yield [scoring.renderer.score_request(text) for text in texts]
        p_first = 1 / (1 + math.exp(min(second.score - first.score, 700)))
        return [judged(record, asked, p_first, {"scores": [first.score, second.score]})]

    scoring.run("eval choice", check, program, seen)
