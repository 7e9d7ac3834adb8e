"""Ask a feedback model which of two answers is better, by a principle: soft AI preferences.

    cai label pairs.jsonl -m MODEL -o preferences.jsonl
    cai label pairs.jsonl -m MODEL --cot --cot-samples 5 -o preferences.jsonl      the model reasons first

Paper, section 4.1: the feedback model sees few-shot examples, the conversation, one principle and two
answers. Its probabilities of the two options' letters, normalised, are the label. Nothing is generated or
parsed, except the reasoning of --cot.

Departures from the paper:
- Each pair is shown in both orders and the label is the mean, which removes the preference for a position.
  The paper shows each pair once (--orders ab).
- The principle is drawn for each pair, from (seed, "label", id, pair). As in the paper it is one per pair;
  --principles-per-pair asks by several.
- The examples are drawn in sixteen sets per run, and pairs share a set, so that an engine computes each once.
- If a record has more than two answers, all pairs are compared, unless --pairs says otherwise.
- With --cot, reasoning that was cut by --max-tokens gives no letter, unless --keep-cut says otherwise.
"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, Model, Principles, Sampling, ShardIO
from cai_cli.commands._judging import Judging
from cai_cli.commands._session import Session
from cai_cli.data.jsonl import Record
from cai_cli.data.records import pair_error
from cai_cli.engines.base import Steps
from cai_cli.errors import InputError, Skipped
from cai_cli.method import feedback
from cai_cli.method.judge import Judge
from cai_cli.method.label_summary import LabelSummary


@command(
    "Ask a feedback model which of each record's answers is better, by a principle: soft preferences.",
    "cai label pairs.jsonl -m models/SmolLM2-135M-Instruct -o preferences.jsonl",
)
def app(
    files: ShardIO,
    model: Model,
    sampling: Sampling,
    prompting: AnswerPrompting,
    principles: Principles,
    judging: Judging,
    pairs: Annotated[
        str,
        Option(
            "--pairs",
            metavar="first|all|random:K",
            help="Which pairs of more than two answers: the first two answers, all pairs, or K drawn pairs.",
        ),
    ] = "all",
) -> None:
    """Label the pairs of each record."""
    if pairs not in ("first", "all") and not (pairs.startswith("random:") and pairs[7:].isdecimal() and int(pairs[7:])):
        raise InputError(f"--pairs {pairs}: give first, all, or random:K with a number K")
    session = Session(files, model, sampling, prompting, exact=True)
    constitution = principles.load()
    judge, labels = Judge(session, constitution, judging.settings(constitution, sampling)), LabelSummary()

    def program(record: Record) -> Steps[list[Record]]:
        chosen = feedback.pairs(len(record["responses"]), pairs, sampling.seed, record["id"])
        found = yield from judge.judge(record, chosen)
        made = [feedback.preference(record, p, found, meta) for p, found, meta in zip(chosen, *found, strict=True) if found]
        if not made:
            raise Skipped("the judge's reasoning was cut by --max-tokens, so there is no label; raise it, or give --keep-cut")
        return made

    session.run("label", pair_error, program, constitution, observer=labels, pairs=pairs, **judge.settings.options())
    if files.dry_run is None:
        labels.report("label", files.quiet)
