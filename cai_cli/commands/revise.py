"""Rewrite each answer after its critique: closes the round that `cai critique` opened.

    cai revise critiques.jsonl -m MODEL -o revisions.jsonl

Paper, section 3.1: the model sees the conversation, the current answer, the critique request, the
critique, and the same principle's revision request. Departure: no few-shot examples yet.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cai_cli import constitution as constitutions
from cai_cli import prompts
from cai_cli.commands.options import IO, ConstitutionName, Model, Sampling, command
from cai_cli.commands.session import Session
from cai_cli.jsonl import Record
from cai_cli.records import revise_input_error


@command(
    "Rewrite each record's answer after its critique (closes the round).",
    "cai revise critiques.jsonl -m models/SmolLM2-135M-Instruct -o revisions.jsonl",
)
def app(files: IO, model: Model, sampling: Sampling, constitution: ConstitutionName = constitutions.DEFAULT) -> None:
    """Close a round."""
    session = Session(files, model, sampling)
    principles = constitutions.load(constitution)
    principles.require("critique", "revision")

    def check(record: Record) -> str | None:
        if error := revise_input_error(record):
            return error
        identity = record["rounds"][-1]["principle"]
        if identity not in principles.by_id:
            return f"{principles.source} has no principle '{identity}'; give the constitution that the critique was made with"
        return None

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        *closed, last = record["rounds"]
        principle = principles.get(last["principle"])
        prompt = prompts.revision(record, principle, last["critique"], session.format)
        [done] = yield [session.request(prompt, "revise", record["id"], len(closed), 0)]
        entry = {**last, "revision": done.text.strip(), "meta": {**last.get("meta", {}), "revision": done.meta()}}
        return [{**record, "rounds": [*closed, entry]}]

    session.run("revise", check, program, principles)
