"""Ask a model which of two answers is better, by a principle: soft AI preferences.

    cai label pairs.jsonl -m MODEL -o preferences.jsonl
    cai label pairs.jsonl -m MODEL --cot --cot-samples 5 -o preferences.jsonl      the model reasons first

Paper, section 4.1: the feedback model sees few-shot examples, the conversation, one principle and two
answers, and its probability of each option's letter is the label; nothing is generated or parsed, but
the reasoning of --cot. Departure: every pair is shown in both orders and the label is their mean, which
takes out the model's preference for a position; the paper showed each pair once (--orders ab). The
paper's 16 principles are drawn from as there, one a pair; --principles-per-pair asks by several.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any

from typer import Option

from cai_cli import feedback, streams
from cai_cli.commands.judge import Judge, Judging
from cai_cli.commands.options import IO, Model, Principles, Sampling, command
from cai_cli.commands.session import Session
from cai_cli.errors import InputError
from cai_cli.jsonl import Record
from cai_cli.records import pair_error


@command(
    "Ask the model which of each record's answers is better, by a principle: soft preferences.",
    "cai label pairs.jsonl -m models/SmolLM2-135M-Instruct -o preferences.jsonl",
)
def app(
    files: IO,
    model: Model,
    sampling: Sampling,
    charter: Principles,
    judging: Judging,
    pairs: Annotated[
        str,
        Option("--pairs", metavar="first|all|random:K", help="Which of more than two answers: the first two, all, or K drawn."),
    ] = "all",
) -> None:
    """Label pairs."""
    if pairs not in ("first", "all") and not (pairs.startswith("random:") and pairs[7:].isdecimal() and int(pairs[7:])):
        raise InputError(f"--pairs {pairs}: give first, all, or random:K with a number")
    session = Session(files, model, sampling)
    judge, bias = Judge(session, charter.load(), judging), feedback.PositionBias()

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        chosen = feedback.pairs(len(record["responses"]), pairs, sampling.seed, record["id"])
        found = yield from judge.judge(record, chosen)
        return [feedback.preference(record, *entry) for entry in zip(chosen, *found, strict=True)]

    session.run("label", pair_error, program, judge.constitution, observer=bias, pairs=pairs, **judge.options())
    if files.dry_run is None and (text := bias.sentence()):
        streams.say(f"cai label: {text}", files.quiet)
