"""Convert records into the columns that TRL trains on, into a dataset, or into a log for Inspect's viewer.

    cai export sft revisions.jsonl --drop-flags empty,cut -o sft.jsonl
    cai export preferences preferences.jsonl -o preferences-trl.jsonl
    cai export inspect graded.jsonl -o logs/2026-01-31T12-00-00_graded.json
    cai export dataset hf/demo revisions.jsonl preferences.jsonl --license cc-by-4.0        (`export_dataset`)

`cai train-sft` and `cai train-pm` read records directly. The first two are for training elsewhere, and for
leaving out flagged texts or near-ties. They count what they leave out.

Not in the paper.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from typer import Option

from cai_cli import streams
from cai_cli.commands._command import add_command, group_app, require_input
from cai_cli.commands._flags import Input, Limit, Output, Quiet
from cai_cli.commands._lazy import LazyGroup
from cai_cli.commands.eval_scores import has_ratings, scored_by
from cai_cli.commands.train_sft import Revisions
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record, dumps, encode
from cai_cli.data.preferences import sides
from cai_cli.data.records import (
    Round,
    as_messages,
    assistant,
    current_answer,
    pair_error,
    preference_error,
    rounds_error,
    shape_error,
)
from cai_cli.errors import InputError, Skipped
from cai_cli.evaluation import inspect_log
from cai_cli.method.clean import FLAGS
from cai_cli.pipeline import lineage, manifest, outputs
from cai_cli.training.examples import answers, sft_error


class Exports(LazyGroup):
    """The commands below, and the one that may reach the Hub."""

    stubs: ClassVar[dict[str, str]] = {"dataset": "Export files of records as a dataset, with a card."}
    modules: ClassVar[dict[str, str]] = {"dataset": "export_dataset"}


app = group_app("Convert records into the columns that TRL trains on, a dataset, or a log for Inspect's viewer.", Exports)


class Form(str, Enum):
    """--form."""

    completion = "completion"
    messages = "messages"


def dropped_flags(entry: Round, drop: set[str]) -> list[str]:
    """The flags of a round that leave it out. `drop` has whole names, names without critique- or revision-, or `all`."""
    return [flag for flag in entry.get("flags", []) if drop & {flag, flag.partition("-")[2], "all"}]


def sft_rows(
    record: Record,
    revisions: str,
    form: str,
    drop: set[str],
    counts: Counter[str],
    keep_cut: bool,
    least: dict[str, float],
) -> Iterator[Record]:
    """One row per answer to train on: `messages`, or `prompt` and `completion`, and the id of its record.

    `revisions` is "all" or "last"; `form` is "messages" or "completion". What is left out goes into `counts`: rounds by their
    flags, truncated answers unless `keep_cut`, and those below one of the `least` grades.
    """
    rounds = record.get("rounds") or []
    reasons = [dropped_flags(entry, drop) for entry in rounds]
    kept = [i for i, flags in enumerate(reasons) if not flags]
    counts["left out"] += len(rounds) - len(kept)
    counts.update(flag for flags in reasons for flag in flags)
    if rounds and not kept:
        return
    numbers = kept[-1:] if revisions == "last" else kept
    found = answers({**record, "rounds": [rounds[i] for i in kept]}, revisions)
    for i, answer in enumerate(found):
        if answer.cut and not keep_cut:
            counts["cut"] += 1
            continue
        if any(grade(record, criterion, i) < p for criterion, p in least.items()):
            counts["low"] += 1
            continue
        prompt, turn = answer.prompt, [{"role": "assistant", "content": answer.text}]
        identity = {"id": f"{record['id']}/{(numbers[i] if rounds else i) + 1}", "source_id": record["id"]}
        yield (
            {**identity, "messages": [*prompt, *turn]}
            if form == "messages"
            else {**identity, "prompt": prompt, "completion": turn}
        )


def least_grades(entries: list[str]) -> dict[str, float]:
    """--min-grade as {criterion: probability}. InputError for another form."""
    found = {}
    for entry in entries:
        criterion, _, p = entry.rpartition("=")
        try:
            found[criterion] = float(p)
        except ValueError:
            criterion = ""
        if not criterion or not 0 <= found[criterion] <= 1:
            raise InputError(f"--min-grade {entry}: write CRITERION=P, P from 0 to 1, for example harmless=0.8")
    return found


def grade(record: Record, criterion: str, number: int) -> float:
    """The grade of a record's answer, of that `number` if it has `responses`: the probability of the criterion's first class."""
    found = record["grades"][criterion]
    return next(iter((found[number] if isinstance(found, list) else found).values()))


def ungraded(record: Record, grades: Iterable[str]) -> str | None:
    """Why a record's answer, or one of its `responses`, has not all of these grades, or None."""
    if error := shape_error({"grades": record.get("grades", {})}):
        return error
    found, several = record.get("grades", {}), len(record["responses"]) if "responses" in record else None

    def good(graded: Any) -> bool:
        return bool(graded) and (len(graded) == several and all(graded) if isinstance(graded, list) else several is None)

    missing = [criterion for criterion in grades if not good(found.get(criterion))]
    return f"no grade '{missing[0]}' of its answer: run `cai grade` first" if missing else None


MinGrade = Annotated[
    list[str] | None,
    Option(
        "--min-grade",
        metavar="CRITERION=P",
        help="Only answers with at least this grade (`cai grade`): the first class's probability; repeatable.",
    ),
]


def sft_summary(counts: Counter[str]) -> str:
    """How many rows were exported, and what was left out."""
    left_out, cut, low = (counts.pop(name, 0) for name in ("left out", "cut", "low"))
    why = ", ".join(f"{name} {count}" for name, count in counts.most_common() if name != "rows")
    more = f"; {streams.plural(left_out, 'round')} left out ({why})" if left_out else ""
    more += f"; {streams.plural(cut, 'truncated answer')} left out (--keep-cut exports them)" if cut else ""
    more += f"; {streams.plural(low, 'answer')} below --min-grade left out" if low else ""
    return f"{streams.plural(counts['rows'], 'row')}{more}"


@add_command(
    app,
    "sft",
    "Export revisions (or responses) as `prompt` and `completion`, or as `messages`.",
    "cai export sft revisions.jsonl --drop-flags empty,cut,unchanged -o sft.jsonl",
)
def sft(
    input: Input = "-",
    output: Output = "-",
    revisions: Annotated[
        Revisions, Option("--revisions", help="Export the revisions of all rounds, or only the last that is kept.")
    ] = Revisions.all,
    drop_flags: Annotated[
        str,
        Option(
            "--drop-flags",
            metavar="FLAG,FLAG",
            help="Leave out rounds with one of these flags (`cai stats` counts them); all: with any flag.",
        ),
    ] = "",
    keep_cut: Annotated[
        bool, Option("--keep-cut", help="Also export answers that were truncated at --max-tokens: training ends them there.")
    ] = False,
    min_grade: MinGrade = None,
    form: Annotated[Form, Option("--form", help="The columns: `prompt` and `completion`, or `messages`.")] = Form.completion,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Export answers."""
    require_input(input)
    drop = {flag.strip() for flag in drop_flags.split(",") if flag.strip()}
    known = {"all", *FLAGS, *(f"{kind}-{flag}" for kind in ("critique", "revision") for flag in FLAGS)}
    if unknown := sorted(drop - known):
        names = ", ".join(FLAGS)
        raise InputError(
            f"--drop-flags: no flag '{unknown[0]}'; give {names} (also with critique- or revision- before them), or all"
        )
    counts: Counter[str] = Counter()
    grades = least_grades(min_grade or [])

    def rows() -> Iterator[bytes]:
        for record in read_with_ids(input, limit, lambda record: sft_error(record) or ungraded(record, grades)):
            try:
                for row in sft_rows(record, revisions.value, form.value, drop, counts, keep_cut, grades):
                    counts["rows"] += 1
                    yield encode(row)
            except Skipped as reason:
                streams.warn(f"export: skipped {record['id']}: {reason}")

    outputs.write_file(output, rows(), {"step": "export", "inputs": [outputs.source(input)], "counts": counts})
    streams.say(f"cai export: {sft_summary(counts)}", quiet)


class From(str, Enum):
    """--from."""

    preferences = "preferences"
    revisions = "revisions"
    scores = "scores"


def preference(record: Record, source: str) -> Record | str:
    """A record's preference as `prompt`, `chosen`, `rejected` and what it is worth; a string says why it has none.

    `source`: "preferences", "revisions" (the last revision over the response), or "scores" (the best of the responses over the
    worst).
    """
    about: Record = {name: record[name] for name in ("id", "source_id", "kind") if name in record}
    if source == "preferences":
        try:
            found = sides(record)
        except ValueError as problem:
            return str(problem)
        weight = {"weight": record["weight"]} if "weight" in record else {}
        return {**about, **found._asdict(), "p_chosen": record.get("p_chosen", 1.0), **weight}
    prompt, scores = as_messages(record["prompt"]), record.get("scores") or {}
    if source == "revisions":
        chosen, rejected = current_answer(record), record["response"]
        if chosen == rejected:
            return "no revision that differs from the response"
    else:
        ranked = sorted(zip(scores["responses"], record["responses"], strict=True), key=lambda pair: pair[0])
        (low, rejected), (high, chosen) = ranked[0], ranked[-1]
        if low == high:
            return "all responses have the same score"
    if not chosen.strip() or not rejected.strip():
        return "an answer is empty"
    about |= {"id": f"{record['id']}/{source}", "source_id": record.get("source_id", record["id"])}
    return {**about, "prompt": prompt, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)], "p_chosen": 1.0}


def scored_error(record: Record) -> str | None:
    """Why a record has no scored answers, or None."""
    if error := pair_error(record):
        return error
    scores = record.get("scores")
    found = scores.get("responses") if isinstance(scores, dict) else None
    good = isinstance(found, list) and len(found) == len(record["responses"]) and all(isinstance(s, int | float) for s in found)
    return None if good else "no score for each of 'responses': run `cai score` first"


MinMargin = Annotated[
    float,
    Option("--min-margin", min=0.0, max=0.5, metavar="M", help="Leave out near-ties: `p_chosen` is less than M from 0.5."),
]
Weigh = Annotated[
    bool,
    Option("--weigh", help="Multiply each `weight` by 2 |p_chosen - 0.5|; `cai train-pm` multiplies its loss by it."),
]
CHECKS = {From.preferences: preference_error, From.revisions: rounds_error, From.scores: scored_error}


@add_command(
    app,
    "preferences",
    "Export preferences as `prompt`, `chosen` and `rejected` messages, with `p_chosen`.",
    "cai export preferences preferences.jsonl --min-margin 0.05 -o preferences-trl.jsonl\n"
    "cai export preferences revisions.jsonl --from revisions -o preferences-trl.jsonl",
)
def preferences(
    input: Input = "-",
    output: Output = "-",
    source: Annotated[
        From,
        Option(
            "--from",
            help="preferences: as they are. revisions: last revision over first answer. scores: best over worst response.",
        ),
    ] = From.preferences,
    min_margin: MinMargin = 0.0,
    weigh: Weigh = False,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Export preferences."""
    require_input(input)
    if source is From.scores and scored_by(input) is None:
        streams.warn(f"{input}: it is not known what made its scores; if they predict ratings, higher need not be better")
    if source is From.scores and has_ratings(input):
        raise InputError(f"{input}: its scores predict ratings, so the highest is not the best; score it with a preference model")
    counts: Counter[str] = Counter()

    def rows() -> Iterator[bytes]:
        for record in read_with_ids(input, limit, CHECKS[source]):
            row = preference(record, source.value)
            if isinstance(row, str):
                counts[row] += 1
                continue
            p = row["p_chosen"]
            if abs(p - 0.5) < min_margin - 1e-9:  # so that a rounding error does not leave out 0.6 with M = 0.1
                counts["tie" if p == 0.5 else "near-tie"] += 1
                continue
            counts["rows"] += 1
            if weigh:
                row["weight"] = 2 * abs(p - 0.5) * row.get("weight", 1.0)
                counts["ties of weight 0"] += p == 0.5
            yield encode(row)

    outputs.write_file(output, rows(), {"step": "export", "inputs": [outputs.source(input)], "counts": counts})
    written, weightless = counts.pop("rows", 0), counts.pop("ties of weight 0", 0)
    ties = [streams.plural(counts.pop(kind), kind) for kind in ("tie", "near-tie") if counts[kind]]
    ties += [f"{count} ({reason})" for reason, count in counts.items() if count]
    more = f"; {' and '.join(ties)} left out" if ties else ""
    more += f"; {streams.plural(weightless, 'tie')} with weight 0" if weightless else ""
    streams.say(f"cai export: {streams.plural(written, 'preference')}{more}", quiet)


_LISTED = re.compile(r"\d{4}-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d.*\.json")
"""The names of the JSON files that Inspect's viewer lists."""


@add_command(
    app,
    "inspect",
    "Export answers with grades or scores, or comparisons, as a log that Inspect's viewer opens.",
    "cai export inspect graded.jsonl -o logs/2026-01-31T12-00-00_graded.json\ninspect view --log-dir logs",
)
def inspect(input: Input = "-", output: Output = "-", limit: Limit = None, quiet: Quiet = False) -> None:
    """Export a log."""
    require_input(input)
    path = Path(input)
    history = lineage.history(path) if path.is_file() else []
    sampled = [made for _, made in history if made.get("step") == "sample"]
    model = str(sampled[0].get("model", {}).get("name", "unknown")) if sampled else "unknown"
    samples = [each for record in read_with_ids(input, limit, inspect_log.check) for each in inspect_log.samples(record, model)]
    about = {"steps": [{name: made[name] for name in ("command", "model", "versions") if name in made} for _, made in history]}
    found = inspect_log.log(samples, path.name, model, manifest.now(), about)
    outputs.write_text(output, f"{dumps(found)}\n")  # no manifest beside it: the viewer would list that as a log
    if output != "-" and not _LISTED.fullmatch(Path(output).name):
        streams.warn(f"export: Inspect lists only files whose names begin with a time: 2026-01-31T12-00-00_{Path(output).name}")
    streams.say(f"cai export: {streams.plural(len(samples), 'sample')}", quiet)
