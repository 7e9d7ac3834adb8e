"""Score every text of each record with a preference model.

    cai score responses.jsonl -m PM -o scored.jsonl
    cai score responses.jsonl -m CONDITIONED_PM -c default -o scored.jsonl       by the principles that the model is asked by

Each text that a record holds is scored as an answer to its prompt: `response`, each of `responses`, each
round's revision, `chosen` and `rejected`. The score is the model's raw output, without activation. Only
differences between answers to the same prompt have a meaning (paper, section 4.1).

A model of `cai train-pm --conditioned` reads a principle. It scores each text by every principle of -c; `scores` is their mean
by the principles' weights, and `scores_by_principle` holds each.

Departures from the paper: none in the scores. `cai eval figures` draws them by revision (figure 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, cast

from typer import Option

from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, Dtype, GpuMemory, Principles, ScorerEngine, ShardIO, TrustRemoteCode, Workers
from cai_cli.commands._session import ScoringSession
from cai_cli.data.jsonl import Record
from cai_cli.data.preferences import sides
from cai_cli.data.records import Scores, as_messages, preference_error, require_answered, rounds_error, texts_error
from cai_cli.engines import models
from cai_cli.engines.base import Steps
from cai_cli.errors import Skipped
from cai_cli.method import prompts
from cai_cli.method.constitution import Constitution, Principle
from cai_cli.method.prompts import Prompt
from cai_cli.training.conditioned import TARGET, require_principles


def check(record: Record) -> str | None:
    """Why a record cannot be scored, or None."""
    preference = "chosen" in record or "rejected" in record
    if not preference and "response" not in record and "responses" not in record:
        return "nothing to score: no 'response', 'responses', or 'chosen' and 'rejected'"
    if preference and (error := preference_error(record)):
        return error
    if error := texts_error(record.get("responses", []), "responses"):
        return error
    only_preference = preference and not any(field in record for field in ("response", "responses", "rounds"))
    return None if only_preference else rounds_error({"response": "", **record})


def texts(record: Record, format: str, principle: Principle | None = None) -> list[tuple[str, Prompt]]:
    """(field, what the model reads) of each text that a record holds, in order. `principle`: for a model that reads it."""
    if principle and ("chosen" in record or "rejected" in record):
        try:
            record = {**record, **sides(record)._asdict()}
        except ValueError as problem:
            raise Skipped(str(problem)) from None
    prompt = prompts.judged_by(as_messages(record["prompt"]), principle) if principle else record.get("prompt", [])
    found = []
    if "response" in record:
        found.append(("response", prompts.pm_input(prompt, record["response"], format)))
    found += [("responses", prompts.pm_input(prompt, text, format)) for text in record.get("responses", [])]
    revisions = [entry["revision"] for entry in record.get("rounds") or [] if "revision" in entry]
    found += [("rounds", prompts.pm_input(prompt, text, format)) for text in revisions]
    judged = {**record, "prompt": prompt} if principle else record
    found += [(side, prompts.pm_input_side(judged, side, format)) for side in ("chosen", "rejected") if side in record]
    return found


def mean(every: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """The mean of several scores of the same texts, by their weights."""

    def of(values: Sequence[Any]) -> Any:
        if isinstance(values[0], list):
            return [of(column) for column in zip(*values, strict=True)]
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)

    return cast(Scores, {field: of([cast(Record, each)[field] for each in every]) for field in every[0]})


def gathered(fields: list[str], scores: list[float]) -> Scores:
    """The `scores` of a record (`records.Scores`): lists under `responses` and `rounds`, numbers under the other fields."""
    result: Record = {}
    for field, score in zip(fields, scores, strict=True):
        if field in ("responses", "rounds"):
            result.setdefault(field, []).append(score)
        else:
            result[field] = score
    return cast(Scores, result)


def scored(scoring: ScoringSession, found: Constitution | None, record: Record) -> Steps[list[Record]]:
    """The record with its scores: by every principle of `found`, if the model reads them."""
    require_answered(record)
    by_principle: dict[str, Scores] = {}
    for principle in found.principles if found else (None,):
        read = texts(scoring.shown(record), scoring.format, principle)
        results = yield [scoring.renderer.score_request(prompt) for _, prompt in read]
        by_principle[principle.id if principle else ""] = gathered([name for name, _ in read], [each.score for each in results])
    if not found:
        return [{**record, "scores": by_principle[""]}]
    weights = [principle.weight for principle in found.principles]
    return [{**record, "scores": mean(list(by_principle.values()), weights), "scores_by_principle": by_principle}]


@command(
    "Score every text of each record with a preference model; writes the raw `scores`.",
    "cai score responses.jsonl -m runs/demo/pm -o scored.jsonl",
)
def app(
    files: ShardIO,
    model: Annotated[
        str, Option("--model", "-m", help="A preference model: a directory (`cai train-pm` makes one), or a Hugging Face name.")
    ],
    prompting: AnswerPrompting,
    principles: Principles,
    workers: Workers,
    engine: Annotated[
        ScorerEngine,
        Option("--engine", help="auto: vllm if it is installed and there is a GPU, else transformers. ray: on a cluster."),
    ] = ScorerEngine.auto,
    dtype: Annotated[
        Dtype, Option("--dtype", help="auto: float32, unless its weights take more than half of the memory.")
    ] = Dtype.auto,
    batch_size: Annotated[
        int | None,
        Option(
            "--batch-size",
            min=1,
            help="Texts computed at once (transformers engine). Default: 512 on a GPU, 32 on a CPU.",
            show_default=False,
        ),
    ] = None,
    gpu_memory: GpuMemory = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Score records."""
    asked = model, dtype.value, batch_size
    scoring = ScoringSession(files, *asked, prompting, engine.value, gpu_memory, workers, trust_remote_code)

    found = principles.load() if principles != Principles() else None
    require_principles(models.target(scoring.folder) == TARGET, found is not None, model)
    if found:
        found.require("compare")

    scoring.run("score", check, partial(scored, scoring, found), constitution=found)
