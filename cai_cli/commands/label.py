"""Ask a model which of two answers is better, by a principle: soft AI preferences.

    cai label pairs.jsonl -m MODEL -o preferences.jsonl

Paper, section 4.1: the feedback model sees the conversation, one principle and two answers, and
its probability of each option's letter is the label; nothing is generated or parsed. Departure:
every pair is shown in both orders and the label is their mean, which takes out the model's
preference for a position; the paper showed each pair once.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any

from typer import Option

from cai_cli import feedback, prompts
from cai_cli.commands.options import IO, Format, Model, Principles, Sampling, Seed, command
from cai_cli.commands.session import Session
from cai_cli.jsonl import Record
from cai_cli.records import pair_error


@command(
    "Ask the model which of each record's first two answers is better, by a principle: soft preferences.",
    "cai label pairs.jsonl -m models/SmolLM2-135M-Instruct -o preferences.jsonl",
)
def app(
    files: IO,
    model: Model,
    charter: Principles,
    seed: Seed = 0,
    format: Annotated[
        Format, Option("--format", help="chat: the model's template. hh: plain text. auto: chat where there is a template.")
    ] = Format.auto,
) -> None:
    """Label pairs."""
    session = Session(files, model, Sampling(max_tokens=1, seed=seed, format=format))
    principles = charter.load()
    principles.require("compare")

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        first, second = record["responses"][:2]
        if first == second:
            yield []
            return [feedback.preference(record, 0, 1, None, None, None, {})]
        principle = principles.draw(seed, record["id"], 0)
        shown = [(first, second), (second, first)]
        choices = yield [
            session.renderer.choice(prompts.comparison(record["prompt"], a, b, principle, session.format), prompts.OPTIONS)
            for a, b in shown
        ]
        ab, ba = (feedback.normalise(choice.logprobs) for choice in choices)
        meta = {"label": {"prompt_tokens": sum(choice.prompt_tokens for choice in choices)}}
        return [feedback.preference(record, 0, 1, principle.id, ab["A"], ba["B"], meta)]

    session.run("label", pair_error, program, principles)
