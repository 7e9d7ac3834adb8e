"""Fine-tune a model on revisions: the supervised stage's last step (SL-CAI).

    cai train-sft revisions.jsonl --mix helpful.jsonl=0.5 -m MODEL -o sl-cai

Takes revision and response records (of `cai sample -n 2` every answer; the paper had two helpful ones a
prompt), and TRL's `messages` or `prompt` + `completion` files. Only the answers are learnt, not the
prompts. Paper, section 3.2: the model is fine-tuned on the revisions of all rounds, mixed with helpful
answers, for one epoch; so it is here (`--revisions last` takes each record's last alone). Departures: a
cosine schedule with a short warm-up in place of a constant rate, and a step of 8 examples, computed 4 at
a time, that suits a small machine (the paper's batch is 1,024 sequences: use --batch-size and
--grad-accum). The learning rate is 2e-5, with --lora 2e-4. A step's examples are of like length, which
saves padding; --packing instead fills rows of --max-length with examples that don't see each other.

DIR holds the model, its tokenizer and template, README.md (the model card), `metrics.jsonl` (a line a
step), `loss.png`, `trained-ids.txt`, `rejected.jsonl` where rows were set aside, and `manifest.json`,
written last.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from typer import Option

from cai_cli.commands.options import command
from cai_cli.commands.training import BatchSize, GradAccum, LearningRate, Run, settings


class Revisions(str, Enum):
    """--revisions."""

    all = "all"
    last = "last"


@command(
    "Fine-tune a model on the answers of records: their revisions, where they have some (SL-CAI).",
    "cai train-sft revisions.jsonl --mix helpful.jsonl=0.5 -m models/SmolLM2-135M-Instruct -o runs/sl-cai",
)
def app(
    run: Run,
    mix: Annotated[
        list[str] | None,
        Option("--mix", metavar="FILE=WEIGHT", help="Helpful answers to mix in: the same as one more of FILES; repeatable."),
    ] = None,
    revisions: Annotated[Revisions, Option("--revisions", help="Learn each round's revision, or the last.")] = Revisions.all,
    packing: Annotated[
        bool, Option("--packing", help="Fill rows of --max-length with examples that don't see each other.")
    ] = False,
    lr: LearningRate = None,
    batch_size: BatchSize = 4,
    grad_accum: GradAccum = 2,
) -> None:
    """Train."""
    from cai_cli.training import sft

    run.files = [*run.files, *(mix or [])]
    options = settings("train-sft", run, lr, 2e-5, batch_size=batch_size, grad_accum=grad_accum)
    sft.train(options, revisions.value, packing)
