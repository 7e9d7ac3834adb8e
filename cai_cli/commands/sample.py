"""Answer prompts: the first step of both stages.

    cai sample prompts.jsonl -m MODEL -o responses.jsonl        one response per prompt
    cai sample prompts.jsonl -m SFT -n 2 -o pairs.jsonl         pairs for `cai label`

Paper, sections 3.1, 3.2 and 4.1: the model answers red-team prompts, at temperature 1. Departures from the
paper: any model may answer. In the paper a helpful RLHF model of 52 billion parameters answers.
"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from cai_cli.commands._command import command
from cai_cli.commands._flags import IO, Model, Sampling
from cai_cli.commands._session import Session
from cai_cli.data.jsonl import Record
from cai_cli.data.records import TextMeta, prompt_error
from cai_cli.engines.base import Steps
from cai_cli.method import prompts

_ANSWERS = ("response", "responses", "rounds", "scores")
"""The fields that hold answers or belong to them."""


@command(
    "Answer prompts: one response per prompt, or [bold]-n 2[/bold] for pairs.",
    "cai sample prompts.jsonl -m models/SmolLM2-135M-Instruct -o responses.jsonl",
)
def app(
    files: IO,
    model: Model,
    sampling: Sampling,
    n: Annotated[int, Option("-n", min=1, help="Responses per prompt: 1 writes `response`, more write `responses`.")] = 1,
    resample: Annotated[
        bool, Option("--resample", help="Answer records again that hold answers; the old ones move to `previous`.")
    ] = False,
) -> None:
    """Answer prompts."""
    session = Session(files, model, sampling)

    def check(record: Record) -> str | None:
        if error := prompt_error(record):
            return error
        if not isinstance(record.get("previous", []), list):
            return "'previous' must be a list"
        if any(field in record for field in _ANSWERS) and not resample:
            return "the record already holds an answer; --resample answers it again and keeps the old answer under 'previous'"
        return None

    def program(record: Record) -> Steps[list[Record]]:
        prompt = prompts.answer(record, session.format)
        completions = yield [session.request(prompt, "sample", record["id"], 0, i) for i in range(n)]
        texts, meta = [c.text.strip() for c in completions], [c.meta() for c in completions]
        return [answered(record, texts, meta)]

    session.run("sample", check, program, n=n, resample=resample)


def answered(record: Record, texts: list[str], meta: list[TextMeta]) -> Record:
    """The record with its answers: one as `response`, several as `responses`. Older answers move to `previous`."""
    grown = {key: value for key, value in record.items() if key not in _ANSWERS}
    old = {key: record[key] for key in _ANSWERS if key in record}
    if old:
        if "meta" in record:
            old["meta"] = grown.pop("meta")
        grown["previous"] = [*record.get("previous", []), old]
    one = len(texts) == 1
    grown["response" if one else "responses"] = texts[0] if one else texts
    name, kept = ("response", meta[0]) if one else ("responses", meta)
    grown["meta"] = {**grown.get("meta", {}), name: kept}
    return grown
