"""Measure how well a model judges pairs whose better answer is known.

    cai eval choice comparisons.jsonl -m MODEL -o judged.jsonl     few-shot; --few-shot 0: direct; --cot: reasoned
    cai eval choice comparisons.jsonl -m PM -o judged-pm.jsonl     a preference model
    cai eval choice comparisons.jsonl -m MODEL --by likelihood     the answer that the model finds likelier, without a question

Takes preferences (`prompt`, `chosen`, `rejected`) and the paper's 438 evaluation questions (`prompt`, `corrects`,
`incorrects`; section 2, figure 4). A preference is asked about as in `cai label`; a hash of the id says whether its
better answer comes first or second. A question of the paper's form is asked with its own sentence instead of a
principle. A preference model's probability is the logistic function of the difference of its scores. With --by likelihood
it is that of the difference of the answers' log-likelihoods after the conversation, in total and per byte of the answer.
These are lm-eval's `acc` and `acc_bytes` for multiple choice, and BIG-bench's for its HHH task (Askell et al. 2021).

Departures from the paper: each pair is shown in both orders (--orders ab shows it once). With --cot one sample of
reasoning is the default; the paper averages five (--cot-samples 5).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from typer import Option

from cai_cli import streams
from cai_cli.commands import eval_judges
from cai_cli.commands._command import command
from cai_cli.commands._flags import IO, AnswerPrompting, Model, Principles, Sampling
from cai_cli.commands._judging import Judging
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
from cai_cli.training.conditioned import TARGET


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
    """Collects the probability that the judge gives to the right answer of each pair. See `observers.Observer`."""

    def __init__(self) -> None:
        self.name, self._rows = "", list[Record]()
        self.values, self.per_byte = list[eval_judges.Verdict](), list[eval_judges.Verdict]()

    def count(self, record: Record) -> None:
        """Collect the probability of a record."""
        found = record["judged"]
        self.values.append(eval_judges.verdict(found))
        if "p_correct_per_byte" in found:
            self.per_byte.append((found["p_correct_per_byte"], found["longer"]))

    def summary(self) -> Record:
        """The measures, for the manifest."""
        first, *per_byte = self.rows() or [{}]
        return {**first, **({"per_byte": per_byte[0]} if per_byte else {})}

    def rows(self) -> list[Record]:
        """The measures, and those per byte if they were collected; computed once."""
        if not self._rows:
            found = {self.name: self.values, f"{self.name} per byte": self.per_byte}
            self._rows = [eval_judges.row(name, values) for name, values in found.items() if values]
        return self._rows


class By(str, Enum):
    """--by."""

    letters = "letters"
    likelihood = "likelihood"


def logistic(difference: float) -> float:
    """The logistic function."""
    return 1 / (1 + math.exp(min(-difference, 700)))


def judged(record: Record, asked: KnownPair, p_first: float, more: Mapping[str, Any]) -> Record:
    """The record with `judged`: which answer is right, the judge's probability of it, how many words longer it is, and `more`."""
    p = p_first if asked.correct == 0 else 1 - p_first
    words = [len(text.split()) for text in asked.responses]
    longer = words[asked.correct] - words[1 - asked.correct]
    return {**record, "judged": {"correct": asked.correct, "p_correct": p, "longer": longer, **more}}


@dataclass
class ChoiceIO(IO):
    """The usual input and output, except that records are written only to -o; standard output gets the table."""

    output: Annotated[
        str | None,
        Option("--output", "-o", help="Also write each pair with its judgement; with - the table goes to standard error."),
    ] = None  # type: ignore[assignment]


@command(
    "Measure how well a model judges pairs whose better answer is known: accuracy, log loss, Brier score, calibration.",
    "cai eval choice comparisons.jsonl -m models/SmolLM2-135M-Instruct -o judged.jsonl",
)
def app(
    files: ChoiceIO,
    model: Model,
    sampling: Sampling,
    prompting: AnswerPrompting,
    principles: Principles,
    judging: Judging,
    by: Annotated[
        By,
        Option("--by", help="letters: ask which answer is better. likelihood: take the one that the model finds likelier."),
    ] = By.letters,
) -> None:
    """Judge pairs, and print how well."""
    seen = Judged()
    out = streams.claim_stdout() if files.output != "-" and files.dry_run is None else None
    files.output = files.output or os.devnull
    pm = models.is_preference_model(models.resolve(model.model))
    if pm and by is By.likelihood:
        raise InputError(f"{model.model} is a preference model, which has no likelihoods; leave out --by likelihood")
    if (pm or by is By.likelihood) and (principles, judging) != (Principles(), Judging()):
        what = f"{model.model} is a preference model, which" if pm else "--by likelihood"
        raise InputError(f"{what} takes no principles, examples or reasoning; leave out their flags")
    if pm:
        _score(files, model, prompting, seen)
    elif by is By.likelihood:
        _compare(Session(files, model, sampling, prompting, exact=True), seen)
    else:
        _ask(Session(files, model, sampling, prompting, exact=True), principles, judging, seen)
    if files.dry_run is None and seen.values:
        table = eval_judges.table(seen.rows())
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


def _compare(session: Session, seen: Judged) -> None:
    """Compare the log-likelihoods of both answers after the conversation."""
    seen.name = "likelihood"

    def program(record: Record) -> Steps[list[Record]]:
        asked = known_pair(session.shown(record))
        if not all(text.strip() for text in asked.responses):
            raise Skipped("an answer is empty")
        prompt = prompts.answer({"prompt": asked.prompt}, session.format)
        texts = [prompts.answer_text(text, session.format) for text in asked.responses]
        found = [one.score for one in (yield [session.renderer.likelihood_request(prompt, text) for text in texts])]
        sizes = [len(text.encode()) for text in asked.responses]  # without the space after `Assistant:`, as lm-eval counts
        first, second = (value / size for value, size in zip(found, sizes, strict=True))
        p_per_byte = logistic(first - second if asked.correct == 0 else second - first)
        more = {"p_correct_per_byte": p_per_byte, "log_likelihoods": found, "bytes": sizes}
        return [judged(record, asked, logistic(found[0] - found[1]), more)]

    session.run("eval choice", check, program, observer=seen, by="likelihood", cot=False)


def _score(files: IO, model: Model, prompting: AnswerPrompting, seen: Judged) -> None:
    """Score both answers with a preference model."""
    m = model
    scoring = ScoringSession(files, m.model, m.dtype.value, m.batch_size, prompting, m.engine.value, m.gpu_memory, m)
    if models.target(scoring.folder) == "score":
        raise InputError(f"{m.model}: predicts ratings (`cai train-pm --target score`), not which of two answers is better")
    if models.target(scoring.folder) == TARGET:
        raise InputError(f"{m.model}: judges by a principle; score the pairs with `cai score -c`, and read its scores")
    seen.name = "PM score"

    def program(record: Record) -> Steps[list[Record]]:
        asked = known_pair(scoring.shown(record))
        texts = [prompts.pm_input(asked.prompt, text, scoring.format) for text in asked.responses]
        first, second = yield [scoring.renderer.score_request(text) for text in texts]
        return [judged(record, asked, logistic(first.score - second.score), {"scores": [first.score, second.score]})]

    scoring.run("eval choice", check, program, seen)
