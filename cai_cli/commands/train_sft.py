"""Fine-tune a model on revisions: the supervised stage's last step (SL-CAI).

    cai train-sft revisions.jsonl --mix helpful.jsonl=0.5 -m MODEL -o sl-cai

Takes revision records, response records (every answer of a pair), and TRL's `messages` or `prompt` +
`completion` files. The loss is on the answers and not on the prompts.

Paper, section 3.2: the model is fine-tuned for one epoch on the revisions of all rounds, mixed with helpful
answers, two per prompt. Departures from the paper:
- It starts from MODEL, normally the model that answered. The paper fine-tunes a pre-trained model: give one
  as MODEL for the paper's way. Without a chat template it is trained on plain transcripts.
- The learning rate is 2e-5 (with --lora 2e-4), with a short warm-up and a cosine. The paper's is constant,
  half of that of pre-training.
- A step has 8 examples, computed 4 at a time, for small machines. The paper's batch has 1,024 sequences: use
  --batch-size and --grad-accum.

The examples of a step are of similar length, which saves padding. --packing instead fills rows of
--max-length with examples that do not see each other.

DIR holds the model, its tokenizer and template, README.md (the model card), `metrics.jsonl` (one line per
step), `loss.png`, `trained-ids.txt`, `skipped.jsonl` if rows were skipped, and `manifest.json`, which is
written last.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from typer import Option

from cai_cli.commands._command import command
from cai_cli.commands._training import BatchSize, GradAccum, Run, learning_rate, settings

RATE = 2e-5


class Revisions(str, Enum):
    """--revisions."""

    all = "all"
    last = "last"


@command(
    "Fine-tune a model on the answers of records, or on their revisions if they have some (SL-CAI).",
    "cai train-sft revisions.jsonl --mix helpful.jsonl=0.5 -m models/SmolLM2-135M-Instruct -o runs/sl-cai",
)
def app(
    run: Run,
    mix: Annotated[
        list[str] | None,
        Option("--mix", metavar="FILE=WEIGHT", help="Helpful answers to mix in, the same as one more of FILES; repeatable."),
    ] = None,
    revisions: Annotated[
        Revisions, Option("--revisions", help="Train on the revisions of all rounds, or only on the last.")
    ] = Revisions.all,
    packing: Annotated[
        bool, Option("--packing", help="Fill rows of --max-length with examples that do not see each other.")
    ] = False,
    lr: Annotated[float | None, learning_rate(RATE)] = None,
    batch_size: BatchSize = 4,
    grad_accum: GradAccum = 2,
) -> None:
    """Train."""
    from cai_cli.training import sft

    run.files = [*run.files, *(mix or [])]
    options = settings("train-sft", run, lr, RATE, batch_size=batch_size, grad_accum=grad_accum)
    sft.train(options, revisions.value, packing)
