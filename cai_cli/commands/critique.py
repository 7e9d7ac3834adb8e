"""Criticise each answer by a principle: opens a round of the supervised stage.

    cai critique responses.jsonl -m MODEL -o critiques.jsonl
    cai critique revisions.jsonl -m MODEL -o critiques-2.jsonl      the next round

Paper, section 3.1: the model is shown few-shot examples, the conversation, and the principle's
critique request. The text under criticism is the last revision, else the response; a principle is
drawn anew for every round, here from (seed, id, round). Departures: small models' leaks are
stripped or flagged (`cai_cli/clean.py`), and the examples are the constitution's own.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cai_cli.commands.options import IO, FewShot, Model, Principles, Retry, Sampling, command
from cai_cli.commands.rounds import Rounds
from cai_cli.commands.session import Session
from cai_cli.jsonl import Record
from cai_cli.records import critique_input_error


@command(
    "Criticise each record's answer by a principle of the constitution (opens a round).",
    "cai critique responses.jsonl -m models/SmolLM2-135M-Instruct -o critiques.jsonl",
)
def app(files: IO, model: Model, sampling: Sampling, charter: Principles, few_shot: FewShot = None, retry: Retry = 0) -> None:
    """Open a round."""
    session = Session(files, model, sampling)
    rounds = Rounds(session, charter.load(), few_shot, retry, "critique")

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        return [(yield from rounds.critique(record))]

    session.run("critique", critique_input_error, program, rounds.constitution, few_shot=few_shot, retry=retry)
