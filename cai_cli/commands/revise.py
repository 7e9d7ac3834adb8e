"""Rewrite each answer after its critique: closes the round that `cai critique` opened.

    cai revise critiques.jsonl -m MODEL -o revisions.jsonl
    cai revise responses.jsonl -m MODEL --from-response --rounds 4 -o revisions.jsonl    whole rounds, one process
    cai revise responses.jsonl -m MODEL --direct -o revisions.jsonl                      without critiques (figure 7)

Paper, section 3.1: the model is shown what the critique was made from, the critique, and the same
principle's revision request. With --from-response each round's critique is made here as well; the
records are those of the chained commands, since what a round draws depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any

from typer import Option

from cai_cli.commands.options import IO, FewShot, Model, Principles, Retry, Sampling, command
from cai_cli.commands.rounds import Rounds
from cai_cli.commands.session import Session
from cai_cli.errors import InputError, SetAside
from cai_cli.jsonl import Record
from cai_cli.records import critique_input_error, revise_input_error


@command(
    "Rewrite each record's answer after its critique (closes the round), or make whole rounds.",
    "cai revise critiques.jsonl -m models/SmolLM2-135M-Instruct -o revisions.jsonl\n"
    "cai revise responses.jsonl -m models/SmolLM2-135M-Instruct --from-response --rounds 4 -o revisions.jsonl",
)
def app(
    files: IO,
    model: Model,
    sampling: Sampling,
    charter: Principles,
    few_shot: FewShot = None,
    retry: Retry = 0,
    from_response: Annotated[
        bool, Option("--from-response", help="Make whole rounds: each critique, then its revision.")
    ] = False,
    direct: Annotated[bool, Option("--direct", help="Make whole rounds without critiques.")] = False,
    rounds: Annotated[int, Option("--rounds", min=1, metavar="N", help="Rounds to make, with one of these two.")] = 1,
) -> None:
    """Close a round."""
    whole = from_response or direct
    if direct and from_response:
        raise InputError("--direct makes revisions without critiques, --from-response with them; give one of the two")
    if rounds > 1 and not whole:
        raise InputError("--rounds needs --from-response, or --direct for revisions without critiques")
    session = Session(files, model, sampling)
    texts = ("revision",) if direct else ("critique", "revision")
    maker = Rounds(session, charter.load(), few_shot, retry, *texts)
    principles = maker.constitution

    def check(record: Record) -> str | None:
        if error := critique_input_error(record) if whole else revise_input_error(record):
            return error
        identity = None if whole else record["rounds"][-1]["principle"]
        if identity is not None and identity not in principles.by_id:
            return f"{principles.source} has no principle '{identity}'; give the constitution that the critique was made with"
        return None

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        try:
            for _ in range(rounds):
                if direct:
                    record = yield from maker.direct(record)
                    continue
                if from_response:
                    record = yield from maker.critique(record)
                record = yield from maker.revise(record)
        except SetAside as reason:
            raise SetAside(str(reason), record) from None  # with the rounds that were made
        return [record]

    how = "direct" if direct else "from-response" if from_response else ""
    session.run("revise", check, program, principles, few_shot=few_shot, retry=retry, rounds=rounds, how=how)
