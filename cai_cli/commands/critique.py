"""Criticise each answer by a principle. This opens a round of the supervised stage.

    cai critique responses.jsonl -m MODEL -o critiques.jsonl
    cai critique revisions.jsonl -m MODEL -o critiques-2.jsonl      the next round

Paper, section 3.1: the model is shown few-shot examples, the conversation, and the critique request of a
principle that is drawn for every round. The text under criticism is the last revision, or the response in
the first round. Departures from the paper: the principle is drawn by weight, from (seed, id, round). The
packaged principles and examples are in our own words; the paper's files load with -c. Text that small models
leak around a critique is stripped or flagged (`cai_cli/method/clean.py`).
"""

from __future__ import annotations

from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, Model, Principles, Retry, Sampling, ShardIO
from cai_cli.commands._judging import FewShot
from cai_cli.commands._session import Session
from cai_cli.data.jsonl import Record
from cai_cli.data.records import critique_input_error
from cai_cli.engines.base import Steps
from cai_cli.method.rounds import Rounds


@command(
    "Criticise each record's answer by a principle of the constitution (opens a round).",
    "cai critique responses.jsonl -m models/SmolLM2-135M-Instruct -o critiques.jsonl",
)
def app(
    files: ShardIO,
    model: Model,
    sampling: Sampling,
    prompting: AnswerPrompting,
    principles: Principles,
    few_shot: FewShot = None,
    retry: Retry = 0,
) -> None:
    """Open a round of each record."""
    session = Session(files, model, sampling, prompting)
    sampling.require_random(retry > 0, "--retry")
    rounds = Rounds(session, principles.load(), few_shot, retry, "critique")

    def program(record: Record) -> Steps[list[Record]]:
        return [(yield from rounds.critique(record))]

    session.run("critique", critique_input_error, program, rounds.constitution, few_shot=few_shot, retry=retry)
