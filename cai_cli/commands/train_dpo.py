"""Train a language model on preferences directly, without a preference model or RL.

    cai train-dpo preferences.jsonl human.jsonl -m SFT_MODEL -o dpo

Takes what `cai train-pm` takes: the preferences of `cai label` (`p_chosen` from 0 to 1) and any TRL
preference file. Not in the paper: the cheap alternative to its last two steps (Rafailov et al. 2023),
with its soft labels: -p log s(d) - (1 - p) log s(-d), where s is the logistic function and d is --beta
times the difference of the two answers' log ratios to the starting model. A label of 0.5 teaches that
neither is better. The learning rate is 5e-6, with --lora 5e-5.

DIR holds the model, its tokenizer and template, README.md (the model card), `metrics.jsonl`, `loss.png`,
`trained-ids.txt`, `rejected.jsonl` where rows were set aside, and `manifest.json`, written last.
"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from cai_cli.commands.options import command
from cai_cli.commands.training import BatchSize, GradAccum, LearningRate, Run, settings


@command(
    "Train a model on preferences directly (DPO with soft labels): the cheap alternative to train-pm and rl.",
    "cai train-dpo preferences.jsonl -m runs/sl-cai -o runs/dpo",
)
def app(
    run: Run,
    beta: Annotated[float, Option("--beta", min=0.0, help="How firmly it is held to the starting model.")] = 0.1,
    lr: LearningRate = None,
    batch_size: BatchSize = 4,
    grad_accum: GradAccum = 2,
) -> None:
    """Train."""
    from cai_cli.training import dpo

    dpo.train(settings("train-dpo", run, lr, 5e-6, batch_size=batch_size, grad_accum=grad_accum), beta)
