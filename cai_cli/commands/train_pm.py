"""Train a preference model on soft labels: the reward of the RL stage. Or a scorer, on ratings.

    cai train-pm preferences.jsonl human.jsonl -m MODEL -o pm
    cai train-pm rated.jsonl --target score -m MODEL -o harmfulness

Takes the preferences of `cai label` (`p_chosen` from 0 to 1) and any TRL preference file, whose rows count
as certain (`p_chosen` 1). The model becomes a sequence classifier with one output. The loss is the
cross-entropy between `p_chosen` and sigma(score of the chosen answer - score of the rejected one), so with
a label of 0.5 the model is trained to score both the same.

Paper, sections 4.1 to 4.3: AI labels for harmlessness are mixed with human labels for helpfulness, and soft
labels give better results than hard ones. Departures from the paper: the paper's preference model is first
pre-trained on other comparisons; this one starts from MODEL as it is. MODEL may be a preference model, so a
first run on other comparisons does the same.

With --target score the records are whole conversations (`prompt` and `response`) with a number, `rating`, such
as those of `cai import red-team-attempts --answers`: from 0 to 4, higher is more harmful. The loss is the squared
error of the output, the paper's absolute harmfulness (section 4.5, figure 10; Ganguli et al. 2022). `cai score`
scores with the result, on the scale of the ratings.

The learning rate is 1e-5, with --lora 1e-4 (InstructGPT's preference model used 9e-6, Llama 2's 1e-5). With
--eval or --eval-fraction the run ends with a table:
accuracy, log loss and calibration on the held-out pairs, by source, and by which answer is longer; of ratings, the
squared error beside that of the mean rating, and the correlation.

DIR holds the model (its pad token is not one that ends a turn), its tokenizer and template, README.md (the
model card), `metrics.jsonl`, `loss.png`, `trained-ids.txt`, `skipped.jsonl` if rows were skipped, and
`manifest.json`, which is written last.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

from typer import Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, Constitutions, Principles
from cai_cli.commands._training import BatchSize, GradAccum, Run, learning_rate, settings
from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError

RATE = 1e-5


class Target(str, Enum):
    """--target."""

    preference = "preference"
    score = "score"


@command(
    "Train a preference model (a sequence classifier with one output) on soft labels, or a scorer on ratings.",
    "cai train-pm preferences.jsonl helpful-comparisons.jsonl -m models/SmolLM2-135M-Instruct -o runs/pm\n"
    "cai train-pm rated.jsonl --target score --eval-fraction 0.1 -m models/SmolLM2-135M-Instruct -o runs/harmfulness",
)
def app(
    run: Run,
    prompting: AnswerPrompting,
    constitution: Constitutions = None,
    target: Annotated[
        Target, Option("--target", help="preference: pairs, by `p_chosen`. score: conversations, by the number in `rating`.")
    ] = Target.preference,
    conditioned: Annotated[
        bool, Option("--conditioned", help="Put each label's principle, from -c, before the conversation: SALMON's model.")
    ] = False,
    lr: Annotated[float | None, learning_rate(RATE)] = None,
    batch_size: BatchSize = 4,
    grad_accum: GradAccum = 2,
) -> None:
    """Train."""
    if conditioned and target is Target.score:
        raise InputError("--conditioned reads the principles of labels, which ratings do not have; leave one of the two out")
    if not conditioned and constitution:
        raise InputError("-c is for --conditioned; give it, or leave -c out")
    principles = Principles(constitution).load() if conditioned else None  # all of them: `cai score` and `cai rl` choose
    options = settings("train-pm", run, prompting, lr, RATE, batch_size=batch_size, grad_accum=grad_accum)
    if target is Target.score:
        from cai_cli.evaluation import rating_report
        from cai_cli.training import ratings

        ratings.train(options, lambda rows: {"ratings": _shown(rating_report, rows, run)})
    else:
        from cai_cli.evaluation import pm_report
        from cai_cli.training import pm

        pm.train(options, lambda pairs: {"pairs": _shown(pm_report, pairs, run)}, principles)


def _shown(kind: Any, found: list[Any], run: Run) -> list[Record]:
    """The rows of a report, after printing its table. `kind`: the module that makes both."""
    rows: list[Record] = kind.report(found)
    if not run.quiet:
        streams.print_table(kind.table(rows), stderr=True)
    return rows
