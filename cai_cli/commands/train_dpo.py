"""Train a language model on preferences directly, without a preference model or RL.

    cai train-dpo preferences.jsonl human.jsonl -m SFT_MODEL -o dpo

Takes what `cai train-pm` takes: the preferences of `cai label` (`p_chosen` from 0 to 1) and any TRL
preference file.

Not in the paper. It is the cheap alternative to the paper's last two steps: DPO (Rafailov et al. 2023) with
the paper's soft labels. The loss is -p log s(d) - (1 - p) log s(-d): p is `p_chosen`, s is the logistic
function, and d is --beta times the difference of the two answers' log ratios to the starting model. With a
label of 0.5 the model is trained to prefer neither answer. The learning rate is 5e-7, with --lora 5e-6
(Zephyr, Tunstall et al. 2023).

DIR holds the model, its tokenizer and template, README.md (the model card), `metrics.jsonl`, `loss.png`,
`trained-ids.txt`, `skipped.jsonl` if rows were skipped, and `manifest.json`, which is written last.
"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from cai_cli.commands._command import command
from cai_cli.commands._flags import Prompting
from cai_cli.commands._training import BatchSize, GradAccum, Run, learning_rate, settings

RATE = 5e-7


@command(
    "Train a model directly on preferences (DPO with soft labels): the cheap alternative to train-pm and rl.",
    "cai train-dpo preferences.jsonl -m runs/sl-cai -o runs/dpo",
)
def app(
    run: Run,
    prompting: Prompting,
    beta: Annotated[float, Option("--beta", min=0.0, help="How strongly the model is held to the starting model.")] = 0.1,
    precompute_ref: Annotated[
        bool, Option("--precompute-ref", help="Compute the starting model's probabilities once, before training: less memory.")
    ] = False,
    lr: Annotated[float | None, learning_rate(RATE)] = None,
    batch_size: BatchSize = 4,
    grad_accum: GradAccum = 2,
) -> None:
    """Train."""
    from cai_cli.training import dpo

    options = settings("train-dpo", run, prompting, lr, RATE, batch_size=batch_size, grad_accum=grad_accum)
    dpo.train(options, beta, precompute_ref)
