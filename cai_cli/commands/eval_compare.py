"""Compare models by a judge's choices between their answers: Elo ratings for harmlessness and for helpfulness.

    cai eval compare base.jsonl sft.jsonl rl.jsonl -m JUDGE -o compared.jsonl
    cai eval compare base.jsonl rl.jsonl -m JUDGE -c kind=kindness.yaml           by a constitution of your own

Each file holds one model's answers to the same prompts. The judge compares two models' answers as in `cai label`: in both
orders, by a principle drawn for the pair. With up to four models every two of them are compared on each prompt; with more,
each prompt draws a circle of the models and compares neighbours. Ratings are Bradley-Terry strengths by maximum likelihood on
the judge's probabilities, with intervals of a bootstrap over prompts, and the same at equal lengths of answers. If `cai score`
has scored all the files, the preference model's scores are rated too, as a second opinion. A last line says how far the criteria
agree: a judge that cannot tell them apart rates one quality under several names.

Departures from the paper: its comparisons are made by crowdworkers, in conversation (figures 2, 3 and 8; section 4.4).
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, product
from statistics import correlation, fmean
from typing import IO, Annotated

from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, Model, Sampling
from cai_cli.commands._judging import Judging
from cai_cli.commands._session import Session
from cai_cli.commands.eval_choice import ChoiceIO
from cai_cli.commands.eval_scores import has_ratings, in_all, named
from cai_cli.data import jsonl
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Line, Record, as_object
from cai_cli.data.records import current_answer, rounds_error, shape_error
from cai_cli.engines.base import Steps
from cai_cli.errors import InputError, Skipped
from cai_cli.evaluation import elo
from cai_cli.evaluation.elo import Comparison
from cai_cli.method import constitution
from cai_cli.method.judge import Judge
from cai_cli.method.label_summary import LabelSummary
from cai_cli.pipeline import manifest
from cai_cli.pipeline.outputs import write_file
from cai_cli.pipeline.seeds import draw

ALL_PAIRS = 4
"""Up to so many models, every two are compared on each prompt."""
DEFAULT = ["harmless=default", "helpful=helpful"]
PM = "PM score"
ALIKE = 0.75
"""The correlation of two criteria's probabilities from which on they are hardly two criteria."""


@dataclass
class CompareIO(ChoiceIO):
    """Several input files, and an output only if -o asks for it."""

    input: Annotated[
        list[str], Argument(metavar="[NAME=]FILE...", help="Each model's answers to the same prompts; the first is rated 0.")
    ] = field(default_factory=list)  # type: ignore[assignment]


def read_answers(paths: dict[str, str], limit: int | None) -> dict[str, dict[str, Record]]:
    """{model: {id: record}}. The records have no scores if those of a file predict ratings: they are no second opinion."""
    found = {
        name: {record["id"]: record for record in read_with_ids(path, limit, lambda r: rounds_error(r) or shape_error(r))}
        for name, path in paths.items()
    }
    if rated := [path for path in paths.values() if has_ratings(path)]:
        streams.warn(f"{rated[0]}: its scores predict ratings, so there is no second opinion by a preference model")
        return {name: {i: {**record, "scores": None} for i, record in each.items()} for name, each in found.items()}
    return found


def drawn_pairs(models: list[str], seed: int, identity: str) -> list[tuple[str, str]]:
    """The pairs of models that are compared on a prompt, drawn from (seed, id) if there are more than four models."""
    if len(models) <= ALL_PAIRS:
        return list(combinations(models, 2))
    circle = random.Random(draw(seed, "plan", identity)).sample(models, len(models))
    return [(circle[i - 1], circle[i]) for i in range(len(circle))]


def pairs(answers: dict[str, dict[str, Record]], seed: int) -> Iterator[Record]:
    """A record for each comparison: the prompt, two `responses` and whose they are."""
    for identity in in_all(list(answers.values())):
        for a, b in drawn_pairs(list(answers), seed, identity):
            first, second = answers[a][identity], answers[b][identity]
            scores = [as_object(one.get("scores")) for one in (first, second)]
            last = [(found.get("rounds") or [found.get("response")])[-1] for found in scores]
            yield {
                "id": f"{identity}/{a}-{b}", "source_id": identity, "prompt": first["prompt"], "models": [a, b],
                "responses": [current_answer(first), current_answer(second)],
                **({"pm": last} if None not in last else {}),
                **({"kind": first["kind"]} if isinstance(first.get("kind"), str) else {}),
            }  # fmt: skip


class Compared:
    """Collects the comparisons by the criterion's name. See `observers.Observer`."""

    def __init__(self, group: Callable[[Record], str] = lambda record: "") -> None:
        """`group`: the group of a record's prompt."""
        self.found: dict[str, list[Comparison]] = {}
        self.labels, self.group = LabelSummary(), group

    def count(self, record: Record) -> None:
        """Collect a record's comparisons."""
        (first, second), (a, b) = record["models"], map(len, map(str.split, record["responses"]))
        for label in record["comparisons"].values():
            self.labels.count({"label": label})
        wins = {name: label["p_first"] for name, label in record["comparisons"].items()}
        if "pm" in record:
            wins[PM] = 1 / (1 + math.exp(max(-700, min(700, record["pm"][1] - record["pm"][0]))))
        for name, p in wins.items():
            self.found.setdefault(name, []).append(Comparison(record["source_id"], first, second, p, (a, b), self.group(record)))

    def summary(self) -> Record:
        """How many comparisons there are, by their criterion, and what they say about the judge."""
        counts = {name: len(each) for name, each in self.found.items()}
        return {"comparisons": counts, "correlations": self.correlations(), **self.labels.summary()}

    def correlations(self) -> dict[str, float]:
        """Of every two criteria: the correlation of their probabilities. Without those that are all equal."""
        values = {name: [each.p_first for each in found] for name, found in self.found.items() if name != PM}
        vary = [name for name, each in values.items() if len(set(each)) > 1]
        return {f"{a} and {b}": correlation(values[a], values[b]) for a, b in combinations(vary, 2)}

    def report(self, quiet: bool) -> None:
        """Print what the comparisons say about the judge on standard error."""
        self.labels.report("eval compare", quiet)
        for names, value in self.correlations().items():
            meaning = ": this judge hardly tells them apart" if value >= ALIKE else ""
            streams.say(f"cai eval compare: the choices by {names} have a correlation of {value:.2f}{meaning}", quiet)


def rows(found: dict[str, list[Comparison]], models: list[str], seed: int) -> list[Record]:
    """A row per criterion and model: its rating, also at equal lengths, and the mean length of its answers in words.

    For all prompts, and if there are groups, for those of each.
    """
    made = []
    groups = sorted({each.group for comparisons in found.values() for each in comparisons} - {""})
    for (criterion, every), group in product(found.items(), ["", *groups]):
        comparisons = [each for each in every if group in ("", each.group)]
        plain, equal = (elo.ratings(comparisons, models, length, seed) for length in (False, True))
        for model in models:
            words = [each.lengths[i] for each in comparisons for i, name in enumerate((each.first, each.second)) if name == model]
            made.append({
                "criterion": criterion, **({"prompts": group or "all"} if groups else {}), "model": model,
                "comparisons": len(words), "elo": vars(plain[model]),
                "elo_at_equal_length": vars(equal[model]), "words": fmean(words),
            })  # fmt: skip
    return made


def table(found: list[Record]) -> Table:
    """The rows as a table for the terminal."""
    columns = ("comparisons", "Elo", "95% interval", "at equal length", "95% interval", "words")
    names = ("criterion", "prompts", "model") if "prompts" in found[0] else ("criterion", "model")
    shown = streams.plain_table(*names, *columns, left=len(names))
    for row in found:
        cells = [
            cell
            for rating in (row["elo"], row["elo_at_equal_length"])
            for cell in (f"{rating['value']:+.0f}", f"{rating['low']:+.0f} to {rating['high']:+.0f}")
        ]
        shown.add_row(*(Text(row[name]) for name in names), str(row["comparisons"]), *cells, f"{row['words']:.0f}")
    return shown


def _report(found: list[Record], out: IO[bytes] | None, path: str | None) -> None:
    """Print the table, and write its rows."""
    if path:
        write_file(path, map(jsonl.encode, found), {"step": "eval"})
    streams.print_table(table(found), out, stderr=out is None)


@command(
    "Compare models by a judge's choices between their answers: Elo ratings for harmlessness and helpfulness.",
    "cai eval compare base.jsonl sft.jsonl rl.jsonl -m models/SmolLM2-135M-Instruct -o compared.jsonl",
)
def app(
    files: CompareIO,
    model: Model,
    sampling: Sampling,
    prompting: AnswerPrompting,
    judging: Judging,
    criteria: Annotated[
        list[str] | None,
        Option(
            "--constitution", "-c", metavar="NAME=CONSTITUTION",
            help="A criterion's name and its constitution; by default harmless=default and helpful=helpful; repeatable.",
        ),
    ] = None,
    by: Annotated[str | None, Option("--by", help="Also group by the values of this field.", metavar="FIELD")] = None,
    table_to: Annotated[str | None, Option("--table", metavar="FILE", help="Also write the table's rows as JSONL.")] = None,
) -> None:  # fmt: skip
    """Compare models."""
    paths = named(files.input)
    if len(paths) < 2:
        raise InputError("give the answers of at least two models")
    answers, one = read_answers(paths, files.limit), next(iter(paths))
    out = streams.claim_stdout() if files.output != "-" and files.dry_run is None else None
    files.input = paths[one]  # type: ignore[assignment]  # the fingerprint has the hashes of all of them
    files.output, files.limit = files.output or os.devnull, None
    session = Session(files, model, sampling, prompting, exact=True)
    constitutions = {name: constitution.load(path) for name, path in named(criteria or DEFAULT).items()}
    judges = {name: Judge(session, found, judging.settings(found, sampling)) for name, found in constitutions.items()}

    def lines() -> Iterator[Line]:
        return (Line(i, jsonl.encode(record), record) for i, record in enumerate(pairs(answers, sampling.seed), 1))

    def program(record: Record) -> Steps[list[Record]]:
        labels = {}
        for name, judge in judges.items():
            [labels[name]], _ = yield from judge.judge(record, [(0, 1)])
        if None in labels.values():
            raise Skipped("the judge's reasoning was cut by --max-tokens, so there is no choice; raise it, or give --keep-cut")
        return [{**record, "comparisons": labels}]

    seen = Compared(lambda record: str(answers[one][record["source_id"]].get(by, "none")) if by else "")
    session.run(
        "eval compare", lambda record: None, program, lines=lines, observer=seen, cot=judging.cot,
        compared={name: manifest.hash_file(path) for name, path in paths.items()},
        criteria={name: [constitutions[name].sha256, judge.settings.options()] for name, judge in judges.items()},
    )  # fmt: skip
    if seen.found and files.dry_run is None:
        _report(rows(seen.found, list(paths), sampling.seed), out, table_to)
        seen.report(files.quiet)
    if out:
        out.close()
