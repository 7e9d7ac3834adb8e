"""Answer prompts: the first step of both stages.

    cai sample prompts.jsonl -m MODEL -o responses.jsonl        one response a prompt
    cai sample prompts.jsonl -m SFT -n 2 -o pairs.jsonl         pairs, to be labelled

As in the paper at temperature 1. The paper's red-team prompts were answered by a helpful RLHF
model of 52 billion parameters; here any model answers.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any

from typer import Option

from cai_cli import prompts
from cai_cli.commands.options import IO, Model, Sampling, command
from cai_cli.commands.session import Session
from cai_cli.jsonl import Record
from cai_cli.records import prompt_error

_ANSWERS = ("response", "responses", "rounds", "scores")


@command(
    "Answer prompts: one response each, or [bold]-n 2[/bold] for pairs.",
    "cai sample prompts.jsonl -m models/SmolLM2-135M-Instruct -o responses.jsonl",
)
def app(
    files: IO,
    model: Model,
    sampling: Sampling,
    n: Annotated[int, Option("-n", min=1, help="Responses a prompt: 1 writes `response`, more write `responses`.")] = 1,
    resample: Annotated[
        bool, Option("--resample", help="Answer records anew that hold answers; those move to `previous`.")
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
            return "the record holds an answer already; --resample answers it anew and keeps that one under 'previous'"
        return None

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        prompt = prompts.answer(record, session.format)
        completions = yield [session.request(prompt, "sample", record["id"], 0, i) for i in range(n)]
        texts, meta = [c.text.strip() for c in completions], [c.meta() for c in completions]
        return [answered(record, texts, meta)]

    session.run("sample", check, program, n=n, resample=resample)


def answered(record: Record, texts: list[str], meta: list[dict[str, Any]]) -> Record:
    """The record with its answers: `response` for one, `responses` for more; older ones in `previous`."""
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
