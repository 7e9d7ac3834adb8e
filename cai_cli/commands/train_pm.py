"""Train a preference model on soft labels: the reward of the RL stage.

    cai train-pm preferences.jsonl human.jsonl -m MODEL -o pm

Takes the preferences of `cai label` (`p_chosen` from 0 to 1) and any TRL preference file, whose rows
count as certain (`p_chosen` 1). The model becomes a sequence classifier with one output; the loss is
the cross-entropy between `p_chosen` and sigma(reward of the chosen - reward of the rejected), so a
label of 0.5 teaches that neither is better. Paper, section 4.1: AI labels for harmlessness are mixed
with human labels for helpfulness, and soft labels train better than hard ones; both hold here.
Departures: the paper's PM is pretrained on other comparisons first; ours starts from MODEL as it is.
The learning rate is 2e-5, with --lora 2e-4. With --eval or --eval-fraction the run ends with a table:
accuracy, log loss and calibration on the held-out pairs, by source, and by which answer is longer.

DIR holds the model (its pad token is none that ends a turn), its tokenizer and template, README.md (the
model card), `metrics.jsonl`, `loss.png`, `trained-ids.txt`, `rejected.jsonl` where rows were set aside,
and `manifest.json`, written last.
"""

from __future__ import annotations

from cai_cli.commands.options import command
from cai_cli.commands.training import BatchSize, GradAccum, LearningRate, Run, settings


@command(
    "Train a preference model (a sequence classifier with one output) on soft labels.",
    "cai train-pm preferences.jsonl helpful-comparisons.jsonl -m models/SmolLM2-135M-Instruct -o runs/pm",
)
def app(
    run: Run,
    lr: LearningRate = None,
    batch_size: BatchSize = 4,
    grad_accum: GradAccum = 2,
) -> None:
    """Train."""
    from cai_cli.training import pm

    pm.train(settings("train-pm", run, lr, 2e-5, batch_size=batch_size, grad_accum=grad_accum))
