"""Fine-tune a model on revisions: the supervised stage's last step (SL-CAI).

    cai train-sft revisions.jsonl --mix helpful.jsonl=0.5 -m MODEL -o sl-cai

Takes revision records, response records (every answer of a pair), preferences (the chosen answers), and
TRL's `messages` or `prompt` + `completion` files. The loss is on the answers and not on the prompts.

Answers that were truncated at --max-tokens are skipped, because they would teach the model to end there;
--keep-cut trains on them without the tokens that end a turn. An answer's `reasoning` is left out: a reasoning
block that the template opens is closed before the answer. --learn-reasoning trains on it too.

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
from cai_cli.commands._flags import Prompting
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
    prompting: Prompting,
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
    keep_cut: Annotated[
        bool, Option("--keep-cut", help="Also train on answers that were truncated at --max-tokens, without an end of the turn.")
    ] = False,
    learn_reasoning: Annotated[
        bool, Option("--learn-reasoning", help="Also train on each answer's `reasoning`, as the model's own.")
    ] = False,
    lr: Annotated[float | None, learning_rate(RATE)] = None,
    batch_size: BatchSize = 4,
    grad_accum: GradAccum = 2,
) -> None:
    """Train."""
    from cai_cli.training import sft

    run.files = [*run.files, *(mix or [])]
    options = settings("train-sft", run, prompting, lr, RATE, batch_size=batch_size, grad_accum=grad_accum)
    sft.train(options, revisions.value, packing, keep_cut, learn_reasoning)
