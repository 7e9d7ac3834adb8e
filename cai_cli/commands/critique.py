"""Criticise each answer by a principle: opens a round of the supervised stage.

    cai critique responses.jsonl -m MODEL -o critiques.jsonl
    cai critique revisions.jsonl -m MODEL -o critiques-2.jsonl      the next round

Paper, section 3.1: the text under criticism is the last revision, else the response; a principle
is drawn anew for every round, here from (seed, id, round). Departure: no few-shot examples yet.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cai_cli import constitution as constitutions
from cai_cli import prompts
from cai_cli.commands.options import IO, ConstitutionName, Model, Sampling, command
from cai_cli.commands.session import Session
from cai_cli.jsonl import Record
from cai_cli.records import critique_input_error


@command(
    "Criticise each record's answer by a principle of the constitution (opens a round).",
    "cai critique responses.jsonl -m models/SmolLM2-135M-Instruct -o critiques.jsonl",
)
def app(files: IO, model: Model, sampling: Sampling, constitution: ConstitutionName = constitutions.DEFAULT) -> None:
    """Open a round."""
    session = Session(files, model, sampling)
    principles = constitutions.load(constitution)
    principles.require("critique")

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        rounds = record.get("rounds") or []
        principle = principles.draw(sampling.seed, record["id"], len(rounds))
        prompt = prompts.critique(record, principle, session.format)
        [done] = yield [session.request(prompt, "critique", record["id"], len(rounds), 0)]
        entry = {"principle": principle.id, "critique": done.text.strip(), "meta": {"critique": done.meta()}}
        return [{**record, "rounds": [*rounds, entry]}]

    session.run("critique", critique_input_error, program, principles)
