"""Draw the paper's figures from the files of a run.

    cai eval figures runs/demo                   into runs/demo/figures: PNG, SVG, and the numbers as JSONL

Draws what the folder has data for, and names what it has none for:

    frontier       helpfulness against harmlessness (figures 2, 3): what `cai eval compare -o` wrote; each on the prompts that are
                   about it, if their `kind` says so
    elo-by-step    Elo of models named NAME-stepN, such as rl-step50 and rl-step100, by that step (figure 8), from the same file
    harmfulness    mean predicted rating (figure 10): what `cai score` wrote with a model of `cai train-pm --target score`; over
                   the steps of RL if the files are named NAME-stepN, or were the `samples.jsonl` of `cai rl`
    revisions      preference-model score by the number of revisions (figures 5, 6, 7): revisions scored by `cai score`; a line
                   per file, so files made by few and by many principles, or by --direct, are compared
    principles     change of the score in the rounds of each principle, from the same files
    diversity      of the last revisions, by the number of principles that drew them (section 3.4): what `cai revise` wrote
    accuracy       of judges and preference models (figure 4): what `cai eval choice -o` wrote
    calibration    of the same judges (figure 9)
    rl             reward, KL, length and refusals by step: directories of `cai rl`

Departures from the paper: Elo ratings come from a judge, not from people; the steps of RL are optimizer steps, not sequences.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands import eval_compare, eval_judges, eval_rl, eval_scores
from cai_cli.commands._command import command
from cai_cli.commands._flags import BootstrapSeed
from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.data.records import current_score
from cai_cli.errors import CaiError, InputError
from cai_cli.evaluation import diversity, figures
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.pipeline import lineage
from cai_cli.pipeline.outputs import source

AIMS = {"helpful": "helpful", "harmless": "red-team"}
"""The kind of prompts that each criterion is about."""
STEP = re.compile(r"(.+?)[-_.]?step[-_]?(\d+)")
"""The name of a model or of a file that says after how many steps of RL it was made."""
FIGURES = {
    "frontier": (figures.frontier, "cai eval compare base.jsonl rl.jsonl -m JUDGE -o RUN/compared.jsonl"),
    "elo-by-step": (
        figures.elo_by_step,
        "cai eval compare base.jsonl rl-step50.jsonl rl-step100.jsonl -m JUDGE -o RUN/compared.jsonl",
    ),
    "harmfulness": (
        figures.harmfulness,
        "cai train-pm rated.jsonl --target score -m MODEL -o SCORER; cai score answers.jsonl -m SCORER -o RUN/answers.jsonl",
    ),
    "revisions": (figures.by_revision, "cai score revisions.jsonl -m PM -o RUN/scored.jsonl"),
    "principles": (figures.by_principle, "cai score revisions.jsonl -m PM -o RUN/scored.jsonl"),
    "diversity": (figures.diversity, "cai revise critiques.jsonl -m MODEL -o RUN/revisions.jsonl"),
    "accuracy": (figures.accuracy, "cai eval choice comparisons.jsonl -m JUDGE -o RUN/judged.jsonl"),
    "calibration": (figures.calibration, "cai eval choice comparisons.jsonl -m JUDGE -o RUN/judged.jsonl"),
    "rl": (figures.rl_steps, "cai rl prompts.jsonl -m MODEL --pm PM -o RUN/rl"),
}
"""Each figure, and a command that makes its data."""


def by_step(run: Path) -> dict[str, list[Path]]:
    """The run's finished JSONL files by the step that made them."""
    found = defaultdict(list)
    for path in sorted(run.rglob("*.jsonl")):
        try:
            step = lineage.beside(path).get("step")
        except CaiError:
            continue
        if step:
            found[str(step)].append(path)
    return found


def compared(path: Path, seed: int) -> list[Record]:
    """The ratings of a file of comparisons, as `cai eval compare` prints them."""
    return _compared(path, path.stat().st_mtime_ns, seed)


@lru_cache(8)  # the bootstrap takes seconds
def _compared(path: Path, changed: int, seed: int) -> list[Record]:
    seen, models = eval_compare.Compared(lambda record: str(record.get("kind", ""))), dict[str, None]()
    for number, record in enumerate(jsonl.read(str(path)), 1):
        try:
            seen.count(record)
            models |= dict.fromkeys(record["models"])
        except (KeyError, TypeError, AttributeError, ValueError) as problem:
            raise jsonl.bad_line(str(path), number, f"not what `cai eval compare` writes ({problem!r})") from None
    return eval_compare.rows(seen.found, list(models), seed)


def frontier(paths: Iterable[Path], seed: int) -> Iterator[Record]:
    """The rows of `figures.frontier`, from the last file of comparisons, if it has both criteria.

    If its prompts are red-team and helpfulness prompts, each criterion is rated on those that are about it.
    """
    for path in list(paths)[-1:]:
        rows = compared(path, seed)
        apart = AIMS.items() <= {(row["criterion"], row.get("prompts")) for row in rows}
        rated = {
            (row["model"], row["criterion"]): row["elo"]
            for row in rows
            if row.get("prompts", "all") == (AIMS.get(row["criterion"]) if apart else "all")
        }
        for model in dict.fromkeys(model for model, _ in rated):
            if (model, "helpful") in rated and (model, "harmless") in rated:
                yield {"model": model, "apart": apart, **{name: rated[model, name] for name in AIMS}}


def step_of(name: str) -> tuple[str, int | None]:
    """(run, step) of a name such as rl-step50: ("rl", 50). Without such an end, the name itself and None."""
    found = STEP.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def elo_by_step(paths: Iterable[Path], seed: int) -> list[Record]:
    """The rows of `figures.elo_by_step`, if some run has models of at least two steps. The first model, rated 0, has none."""
    rated = [
        row
        for path in list(paths)[-1:]
        for row in compared(path, seed)
        if row["criterion"] in AIMS and row.get("prompts", "all") == "all"
    ]
    steps = Counter(run for run, step in {step_of(row["model"]) for row in rated} if step is not None)
    if not steps or max(steps.values()) < 2:
        return []
    base = rated[0]["model"]
    return [
        {"base": base, "label": f"{run}, {row['criterion']}", "model": row["model"], "step": step, **row["elo"]}
        for row in rated
        for run, step in [step_of(row["model"])]
        if step is not None or row["model"] != base
    ]


def rating(record: Record) -> float | None:
    """The predicted rating of a record's last revision, or of its response, or the mean of its responses; None without scores."""
    several = (record.get("scores") or {}).get("responses")
    return fmean(several) if several else current_score(record)


def harmfulness(paths: Iterable[Path], seed: int) -> Iterator[Record]:
    """The rows of `figures.harmfulness`: the mean predicted rating of each file, or of each step of its records."""
    rated = [path for path in paths if eval_scores.has_ratings(str(path))]
    if rated:
        eval_scores.scorer_line({path.stem: eval_scores.scored_by(str(path)) for path in rated})  # warns if they differ
    for path in rated:
        run, named = step_of(path.stem)
        values = defaultdict(list)
        for record in jsonl.read(str(path)):
            if (score := rating(record)) is not None:
                step = record.get("step")
                values[step if isinstance(step, int) else named].append(score)
        for step, each in sorted(values.items(), key=lambda item: item[0] or 0):
            yield {"label": run, "step": step, "records": len(each), **_interval(each, seed)}


def _interval(values: list[float], seed: int) -> Record:
    return dict(zip(("value", "low", "high"), mean_interval(values, seed), strict=True))


def scored(path: Path) -> Iterator[tuple[list[float], list[str]]]:
    """(scores of the response and of each revision, principle of each round) of the records that have both."""
    if eval_scores.has_ratings(str(path)):  # a rating is no preference-model score
        return
    for record in jsonl.read(str(path)):
        scores, rounds = record.get("scores") or {}, record.get("rounds") or []
        if "response" in scores and rounds and len(scores.get("rounds") or []) == len(rounds):
            yield [scores["response"], *scores["rounds"]], [entry["principle"] for entry in rounds]


def revisions(paths: Iterable[Path], seed: int) -> Iterator[Record]:
    """The rows of `figures.by_revision`."""
    for path in paths:
        values = defaultdict(list)
        for scores, _ in scored(path):
            for number, score in enumerate(scores):
                values[number].append(score)
        for number, each in sorted(values.items()):
            yield {"file": path.stem, "revisions": number, "records": len(each), **_interval(each, seed)}


def principles(paths: Iterable[Path], seed: int) -> Iterator[Record]:
    """The rows of `figures.by_principle`, over all files."""
    changes = defaultdict(list)
    for path in paths:
        for scores, ids in scored(path):
            for number, identity in enumerate(ids):
                changes[identity].append(scores[number + 1] - scores[number])
    for identity, each in sorted(changes.items()):
        yield {"principle": identity, "rounds": len(each), **_interval(each, seed)}


def diverse(paths: Iterable[Path], seed: int) -> Iterator[Record]:
    """The rows of `figures.diversity`: fewer principles first."""
    texts: dict[Path, list[str]] = defaultdict(list)
    ids: dict[Path, set[str]] = defaultdict(set)
    for path in paths:
        for record in jsonl.read(str(path)):
            rounds = [entry for entry in record.get("rounds") or [] if "revision" in entry]
            if rounds:
                texts[path].append(rounds[-1]["revision"])
                ids[path] |= {entry["principle"] for entry in rounds}
    measured = diversity.diversity(texts, seed)
    for path in sorted(texts, key=lambda path: (len(ids[path]), path)):
        yield {"file": path.stem, "principles": len(ids[path]), "records": len(texts[path]), **measured[path]}


def rl_runs(run: Path) -> list[Path]:
    """The `metrics.jsonl` of the run's finished RL directories."""
    return [path for path in sorted(run.rglob("metrics.jsonl")) if lineage.beside(path.parent).get("step") == "rl"]


def steps(paths: Iterable[Path]) -> Iterator[Record]:
    """The rows of `figures.rl_steps`."""
    for path in paths:
        for line in eval_rl.read_metrics(path):
            yield {"run": path.parent.name, "step": line["step"], **{name: line.get(name) for name in figures.STEPS}}


def judges(paths: Iterable[Path], seed: int) -> Iterator[Record]:
    """The rows of `figures.accuracy` and `figures.calibration`."""
    for path in paths:
        yield eval_judges.row(path.stem, list(eval_judges.read_judged(str(path)).values()), seed)


def rows_of(run: Path, seed: int) -> tuple[dict[str, list[Record]], list[Record]]:
    """The rows of every figure, none for those without data, and the files that they come from."""
    files = by_step(run)
    # scored revisions are the same ones
    revised, trained = files["revise"] or files["score"], rl_runs(run)
    known = list(judges(files["eval choice"], seed))
    rows = {
        "frontier": list(frontier(files["eval compare"], seed)),
        "elo-by-step": elo_by_step(files["eval compare"], seed),
        "harmfulness": sorted(harmfulness(files["score"], seed), key=lambda row: (row["label"], row["step"] or 0)),
        "revisions": list(revisions(files["score"], seed)),
        "principles": list(principles(files["score"], seed)),
        "diversity": list(diverse(revised, seed)),
        "accuracy": known,
        "calibration": known,
        "rl": list(steps(trained)),
    }
    used = [*files["eval compare"], *files["score"], *files["eval choice"], *revised, *trained]
    return rows, [source(str(path)) for path in dict.fromkeys(used)]


@command(
    "Draw the paper's figures from the files of a run: PNG, SVG, and the numbers as JSONL.",
    "cai eval figures runs/demo",
)
def app(
    run: Annotated[Path, Argument(metavar="RUN", help="The folder of a run, with the manifests beside its files.")],
    output: Annotated[str | None, Option("--output", "-o", help="The folder for the figures; by default RUN/figures.")] = None,
    seed: BootstrapSeed = 0,
) -> None:
    """Draw figures."""
    if not run.is_dir():
        raise InputError(f"{run}: not a folder; give that of a run")
    folder = Path(output or run / "figures")
    rows, used = rows_of(run, seed)
    os.makedirs(folder, exist_ok=True)
    for name, (kind, example) in FIGURES.items():
        if rows[name]:
            figures.save(name, kind, rows[name], folder, used)
            typer.echo(folder / f"{name}.png")
        else:
            streams.say(f"cai eval figures: no data for {name}: {example}")
