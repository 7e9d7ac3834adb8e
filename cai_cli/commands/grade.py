"""Grade each answer by the criteria of a rubric: the probability of each class of each criterion.

    cai grade responses.jsonl -m MODEL -o graded.jsonl                   harmless, helpful, honest
    cai grade responses.jsonl -m MODEL -r refusal -o graded.jsonl        XSTest's three classes, and whether a reason is given
    cai grade responses.jsonl -m MODEL -c default -o graded.jsonl        a constitution's principles as criteria

The judge sees the conversation, the criterion's question and its classes as lettered options. Its probabilities of the
letters, normalised, are the grade: the mean over both orders of the options. Nothing is generated or parsed, except the
reasoning of --cot. A record with `responses` gets a grade for each of them; another one for its last revision, or its
response. A record that carries a `rubric` of its own is graded by that.

Not in the paper, which only compares answers (section 4.1).
"""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Annotated

from typer import Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, Model, Principles, Sampling, ShardIO
from cai_cli.commands._judging import Grading
from cai_cli.commands._session import Session
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Grades, rounds_error, texts_error
from cai_cli.data.shapes import type_error
from cai_cli.engines.base import Steps
from cai_cli.errors import InputError
from cai_cli.method import rubrics
from cai_cli.method.grader import Grader
from cai_cli.method.rubrics import Rubric


def check(record: Record) -> str | None:
    """Why a record cannot be graded, or None."""
    if not record["responses"] if "responses" in record else "response" not in record:
        return "nothing to grade: no 'response' or 'responses'"
    answers = texts_error(record.get("responses", []), "responses") or rounds_error({"response": "", **record})
    return rubrics.own_error(record) or answers or type_error(record.get("grades", {}), Grades, "grades")


class Means:
    """Collects the grades: the probabilities of the criteria's first classes. See `observers.Observer`."""

    def __init__(self) -> None:
        self.grades: dict[str, list[float]] = defaultdict(list)

    def count(self, record: Record) -> None:
        """Collect a record's grades."""
        for criterion, found in record["grades"].items():
            each = found if isinstance(found, list) else [found]
            if values := [next(iter(grade.values())) for grade in each if grade]:
                self.grades[criterion] += values

    def summary(self) -> Record:
        """The mean of each criterion, for the manifest."""
        return {"grades": {criterion: fmean(values) for criterion, values in self.grades.items()}}


def chosen(names: list[str] | None, principles: Principles) -> Rubric:
    """The rubrics of --rubric and the constitution of -c as one; without either the default."""
    names = names if names or principles.constitution else [rubrics.DEFAULT]
    found = [rubrics.load(name) for name in names or []]
    if principles.constitution:
        found.append(rubrics.of_constitution(principles.load()))
    elif principles != Principles():
        raise InputError("--principles and --tags choose among a constitution's principles; give it with -c")
    first, *others = found
    for other in others:
        first += other
    return first


@command(
    "Grade each record's answers by the criteria of a rubric: `grades` holds the probability of each class.",
    "cai grade responses.jsonl -m models/SmolLM2-135M-Instruct -o graded.jsonl\n"
    "cai grade responses.jsonl -m models/SmolLM2-135M-Instruct -r refusal -o graded.jsonl",
)
def app(
    files: ShardIO,
    model: Model,
    sampling: Sampling,
    prompting: AnswerPrompting,
    grading: Grading,
    principles: Principles,
    rubric: Annotated[
        list[str] | None,
        Option(
            "--rubric",
            "-r",
            metavar="NAME",
            help="A packaged rubric (hhh, refusal), or a YAML or JSON file; hhh by default; repeatable.",
        ),
    ] = None,
) -> None:
    """Grade records."""
    session = Session(files, model, sampling, prompting, exact=True)
    found, asking, means = chosen(rubric, principles), grading.asking(sampling), Means()
    grader = Grader(session, asking)

    def program(record: Record) -> Steps[list[Record]]:
        made = yield from grader.grade(session.shown(record), rubrics.own(record) or found.criteria)
        return [{**record, "grades": made["grades"], "meta": made["meta"]}]

    criteria = [criterion.id for criterion in found.criteria]
    session.run("grade", check, program, observer=means, rubric=found.sha256, criteria=criteria, **asking.options())
    if files.dry_run is None:
        mean = rubrics.overall(found.criteria, means.summary()["grades"])
        for criterion, values in means.grades.items():
            streams.say(
                f"cai grade: {criterion}: mean {fmean(values):.3f} over {streams.plural(len(values), 'answer')}", files.quiet
            )
        if mean is not None and len(found.criteria) > 1:
            streams.say(f"cai grade: overall, by the criteria's weights: {mean:.3f}", files.quiet)
