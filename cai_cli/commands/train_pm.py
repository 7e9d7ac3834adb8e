"""Train a preference model on soft labels: the reward of the RL stage.

    cai train-pm preferences.jsonl human.jsonl -m MODEL -o pm

Takes the preferences of `cai label` (`p_chosen` from 0 to 1) and any TRL preference file, whose rows count
as certain (`p_chosen` 1). The model becomes a sequence classifier with one output. The loss is the
cross-entropy between `p_chosen` and sigma(score of the chosen answer - score of the rejected one), so with
a label of 0.5 the model is trained to score both the same.

Paper, sections 4.1 to 4.3: AI labels for harmlessness are mixed with human labels for helpfulness, and soft
labels give better results than hard ones. Departures from the paper: the paper's preference model is first
pre-trained on other comparisons; this one starts from MODEL as it is. MODEL may be a preference model, so a
first run on other comparisons does the same.

The learning rate is 1e-5, with --lora 1e-4 (InstructGPT's preference model used 9e-6, Llama 2's 1e-5). With
--eval or --eval-fraction the run ends with a table:
accuracy, log loss and calibration on the held-out pairs, by source, and by which answer is longer.

DIR holds the model (its pad token is not one that ends a turn), its tokenizer and template, README.md (the
model card), `metrics.jsonl`, `loss.png`, `trained-ids.txt`, `skipped.jsonl` if rows were skipped, and
`manifest.json`, which is written last.
"""

from __future__ import annotations

from typing import Annotated

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting
from cai_cli.commands._training import BatchSize, GradAccum, Run, learning_rate, settings
from cai_cli.data.jsonl import Record

RATE = 1e-5


@command(
    "Train a preference model (a sequence classifier with one output) on soft labels.",
    "cai train-pm preferences.jsonl helpful-comparisons.jsonl -m models/SmolLM2-135M-Instruct -o runs/pm",
)
def app(
    run: Run,
    prompting: AnswerPrompting,
    lr: Annotated[float | None, learning_rate(RATE)] = None,
    batch_size: BatchSize = 4,
    grad_accum: GradAccum = 2,
) -> None:
    """Train."""
    from cai_cli.evaluation import pm_report
    from cai_cli.training import pm

    def measure(pairs: list[pm.ScoredPair]) -> Record:
        rows = pm_report.report(pairs)
        if not run.quiet:
            streams.print_table(pm_report.table(rows), stderr=True)
        return {"pairs": rows}

    options = settings("train-pm", run, prompting, lr, RATE, batch_size=batch_size, grad_accum=grad_accum)
    pm.train(options, measure)
