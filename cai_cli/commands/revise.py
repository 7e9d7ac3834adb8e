"""Rewrite each answer after its critique. This closes the round that `cai critique` opened.

    cai revise critiques.jsonl -m MODEL -o revisions.jsonl
    cai revise responses.jsonl -m MODEL --from-response --rounds 4 -o revisions.jsonl    whole rounds in one run
    cai revise responses.jsonl -m MODEL --direct -o revisions.jsonl                      without critiques (figure 7)

Paper, section 3.1: the model is shown the prompt of the critique, the critique, and the revision request of
the same principle. With --from-response this command makes each round's critique too. The records are then
the same as those of the chained commands, because a round's draws depend only on (seed, step, id, round,
attempt).

Departures from the paper: one round by default; the paper makes four (--rounds 4). Text that small models
leak around a revision is stripped or flagged, and --retry samples a flagged text again. Revisions without
critiques (section 3.5) are --direct.
"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, Model, Principles, Retry, Sampling, ShardIO
from cai_cli.commands._judging import FewShot
from cai_cli.commands._session import Session
from cai_cli.data.jsonl import Record
from cai_cli.data.records import critique_input_error, revise_input_error
from cai_cli.engines.base import Steps
from cai_cli.errors import InputError, Skipped
from cai_cli.method.rounds import Rounds


@command(
    "Rewrite each record's answer after its critique (closes the round), or make whole rounds.",
    "cai revise critiques.jsonl -m models/SmolLM2-135M-Instruct -o revisions.jsonl\n"
    "cai revise responses.jsonl -m models/SmolLM2-135M-Instruct --from-response --rounds 4 -o revisions.jsonl",
)
def app(
    files: ShardIO,
    model: Model,
    sampling: Sampling,
    prompting: AnswerPrompting,
    principles: Principles,
    few_shot: FewShot = None,
    retry: Retry = 0,
    from_response: Annotated[
        bool, Option("--from-response", help="Make whole rounds from answers: a critique, then its revision.")
    ] = False,
    direct: Annotated[bool, Option("--direct", help="Make whole rounds without critiques.")] = False,
    rounds: Annotated[int, Option("--rounds", min=1, metavar="N", help="Rounds to make, with --from-response or --direct.")] = 1,
) -> None:
    """Close a round of each record, or make whole rounds."""
    whole = from_response or direct
    if direct and from_response:
        raise InputError("--direct makes revisions without critiques, --from-response with them; give one of the two")
    if rounds > 1 and not whole:
        raise InputError("--rounds needs --from-response, or --direct for revisions without critiques")
    session = Session(files, model, sampling, prompting)
    texts = ("revision",) if direct else ("critique", "revision")
    sampling.require_random(retry > 0, "--retry")
    constitution = principles.load()
    maker = Rounds(session, constitution, few_shot, retry, *texts)

    def check(record: Record) -> str | None:
        if error := critique_input_error(record) if whole else revise_input_error(record):
            return error
        identity = None if whole else record["rounds"][-1]["principle"]
        if identity is not None and identity not in constitution.by_id:
            return f"{constitution.source} has no principle '{identity}'; give the constitution that the critique was made with"
        return None

    def program(record: Record) -> Steps[list[Record]]:
        try:
            for _ in range(rounds):
                if direct:
                    record = yield from maker.direct(record)
                    continue
                if from_response:
                    record = yield from maker.critique(record)
                record = yield from maker.revise(record)
        except Skipped as reason:
            raise Skipped(str(reason), record) from None  # with the rounds made so far
        return [record]

    how = "direct" if direct else "from-response" if from_response else ""
    session.run("revise", check, program, constitution, few_shot=few_shot, retry=retry, rounds=rounds, how=how)
