"""Score every text of each record with a preference model.

    cai score responses.jsonl -m PM -o scored.jsonl

Each text that a record holds is scored as an answer to its prompt: `response`, each of `responses`, each
round's revision, `chosen` and `rejected`. The score is the model's raw output, without activation. Only
differences between answers to the same prompt have a meaning (paper, section 4.1).

Departures from the paper: none in the scores. `cai eval figures` draws them by revision (figure 5).
"""

from __future__ import annotations

from typing import Annotated, cast

from typer import Option

from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, Dtype, GpuMemory, ScorerEngine, ShardIO, TrustRemoteCode, Workers
from cai_cli.commands._session import ScoringSession
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Scores, preference_error, require_answered, rounds_error, texts_error
from cai_cli.engines.base import Steps
from cai_cli.method import prompts
from cai_cli.method.prompts import Prompt


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


def texts(record: Record, format: str) -> list[tuple[str, Prompt]]:
    """(field, what the model reads) of each text that a record holds, in order."""
    found = []
    if "response" in record:
        found.append(("response", prompts.pm_input(record["prompt"], record["response"], format)))
    found += [("responses", prompts.pm_input(record["prompt"], text, format)) for text in record.get("responses", [])]
    revisions = [entry["revision"] for entry in record.get("rounds") or [] if "revision" in entry]
    found += [("rounds", prompts.pm_input(record["prompt"], text, format)) for text in revisions]
    found += [(side, prompts.pm_input_side(record, side, format)) for side in ("chosen", "rejected") if side in record]
    return found


def gathered(fields: list[str], scores: list[float]) -> Scores:
    """The `scores` of a record (`records.Scores`): lists under `responses` and `rounds`, numbers under the other fields."""
    result: Record = {}
    for field, score in zip(fields, scores, strict=True):
        if field in ("responses", "rounds"):
            result.setdefault(field, []).append(score)
        else:
            result[field] = score
    return cast(Scores, result)


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

    def program(record: Record) -> Steps[list[Record]]:
        require_answered(record)
        read = texts(scoring.shown(record), scoring.format)
        results = yield [scoring.renderer.score_request(prompt) for _, prompt in read]
        return [{**record, "scores": gathered([field for field, _ in read], [result.score for result in results])}]

    scoring.run("score", check, program)
