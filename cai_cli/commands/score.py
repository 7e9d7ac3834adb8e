"""Score any record's texts with a preference model.

    cai score responses.jsonl -m PM -o scored.jsonl

Every text that a record holds is scored after its prompt: `response`, each of `responses`, each
round's revision, `chosen` and `rejected`. The score is the model's raw output, without activation;
only differences between answers to one prompt mean anything (paper, section 4.1).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict
from typing import Annotated, Any

from typer import Option

from cai_cli import manifest, models, prompts, stage
from cai_cli.commands.options import IO, Dtype, EngineName, Format, GpuMemory, command, require_input
from cai_cli.engines.base import Request
from cai_cli.inputs import Check
from cai_cli.jsonl import Record
from cai_cli.prompts import Prompt
from cai_cli.records import preference_error, rounds_error, texts_error


def check(record: Record) -> str | None:
    """What keeps a record from being scored, or None."""
    preference = "chosen" in record or "rejected" in record
    if not preference and "response" not in record and "responses" not in record:
        return "nothing to score: no 'response', 'responses', or 'chosen' and 'rejected'"
    if preference and (error := preference_error(record)):
        return error
    if error := texts_error(record.get("responses", []), "responses"):
        return error
    alone = preference and not any(field in record for field in ("response", "responses", "rounds"))
    return None if alone else rounds_error({"response": "", **record})


def texts(record: Record, format: str) -> list[tuple[str, Prompt]]:
    """(field, what the model reads) for each text that a record holds, in order."""
    found = []
    if "response" in record:
        found.append(("response", prompts.judged(record["prompt"], record["response"], format)))
    found += [("responses", prompts.judged(record["prompt"], text, format)) for text in record.get("responses", [])]
    revisions = [entry["revision"] for entry in record.get("rounds") or [] if "revision" in entry]
    found += [("rounds", prompts.judged(record["prompt"], text, format)) for text in revisions]
    found += [(side, prompts.judged_side(record, side, format)) for side in ("chosen", "rejected") if side in record]
    return found


def gathered(fields: list[str], scores: list[float]) -> Record:
    """The `scores` of a record: a list under `responses` and `rounds`, a number under the rest."""
    result: Record = {}
    for field, score in zip(fields, scores, strict=True):
        if field in ("responses", "rounds"):
            result.setdefault(field, []).append(score)
        else:
            result[field] = score
    return result


class Scoring:
    """A preference model and how it's run. Nothing but its tokenizer is loaded until a record needs it."""

    def __init__(self, files: IO, model: str, dtype: str, batch_size: int, format: str, engine: str, gpu_memory: float) -> None:
        """InputError where the model is no preference model."""
        models.share_cores()
        from cai_cli.engines import select
        from cai_cli.engines.preference import require_preference_model
        from cai_cli.tokens import Renderer

        require_input(files.input)
        self.files, self.model, self.dtype, self.batch_size, self.gpu_memory = files, model, dtype, batch_size, gpu_memory
        self.folder = models.resolve(model)
        # on a CPU vLLM takes some twenty seconds to start
        self.engine = "transformers" if engine == "auto" and models.device() == "cpu" else select.pick(engine)
        require_preference_model(self.folder)
        self.renderer = Renderer(models.load_tokenizer(self.folder))
        self.format = self.renderer.format(format)

    def open(self) -> Any:
        """Load the weights."""
        if self.engine == "vllm":
            from cai_cli.engines.vllm import VllmPreferenceModel

            return VllmPreferenceModel(self.folder, models.resolve_dtype(self.dtype), self.gpu_memory)
        from cai_cli.engines.preference import PreferenceModel

        return PreferenceModel(self.folder, self.dtype, self.batch_size)

    def run(self, name: str, check: Check, program: stage.Program, observer: stage.Observer | None = None) -> None:
        """Run a step over the input."""
        sha = manifest.hash_model(self.folder) if self.files.dry_run is None else ""
        options = {"model": sha, "dtype": self.dtype, "format": self.format, "engine": self.engine}
        about = {"model": {"name": self.model, "sha256": sha}}
        context = models.context_length(self.folder)
        job = stage.Job(name, check, program, self.open, context, options, about, self.model, observer=observer)
        stage.run(job, stage.Files(**asdict(self.files)))


@command(
    "Score every text of each record with a preference model: `scores`, raw.",
    "cai score responses.jsonl -m runs/demo/pm -o scored.jsonl",
)
def app(
    files: IO,
    model: Annotated[
        str, Option("--model", "-m", help="A preference model's directory (`cai train-pm` makes one), or a hub name.")
    ],
    engine: Annotated[
        EngineName, Option("--engine", help="auto: vllm on a GPU that has it, else transformers.")
    ] = EngineName.auto,
    dtype: Annotated[Dtype, Option("--dtype", help="auto: bfloat16 where the processor has it, else float32.")] = Dtype.auto,
    batch_size: Annotated[int, Option("--batch-size", min=1, help="Texts computed at once (transformers engine).")] = 32,
    gpu_memory: GpuMemory = 0.9,
    format: Annotated[Format, Option("--format", help="chat: the model's template. hh: plain transcripts.")] = Format.auto,
) -> None:
    """Score records."""
    scoring = Scoring(files, model, dtype.value, batch_size, format.value, engine.value, gpu_memory)

    def program(record: Record) -> Generator[list[Request], list[Any], list[Record]]:
        read = texts(record, scoring.format)
        results = yield [scoring.renderer.judgement(prompt) for _, prompt in read]
        return [{**record, "scores": gathered([field for field, _ in read], [result.score for result in results])}]

    scoring.run("score", check, program)
