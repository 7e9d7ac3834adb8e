"""The flags that the trainers share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Annotated, Any

from typer import Argument, Option

from cai_cli.commands.options import Debug, Dtype, Format, Limit, Quiet, Seed
from cai_cli.training.common import Settings

LearningRate = Annotated[float, Option("--lr", min=0.0, help="Peak learning rate.")]
BatchSize = Annotated[int, Option("--batch-size", min=1, help="Examples computed at once.")]
GradAccum = Annotated[int, Option("--grad-accum", min=1, help="Batches to an optimizer step.")]
EvalFraction = Annotated[
    float, Option("--eval-fraction", min=0.0, max=0.9, help="Share of the records held out, by id, to measure eval_loss.")
]


@dataclass
class Run:
    """What is trained on, from which model, for how long, and where it goes."""

    files: Annotated[list[str], Argument(help="JSONL files (.gz too); FILE=WEIGHT takes rows WEIGHT times.", metavar="FILES")]
    model: Annotated[str, Option("--model", "-m", help="Start from this model directory (safetensors), or hub name OWNER/MODEL.")]
    output: Annotated[str, Option("--output", "-o", help="The directory that the trained model goes to.")]
    steps: Annotated[int | None, Option("--steps", min=1, help="Optimizer steps; wins over --epochs.", metavar="N")] = None
    epochs: Annotated[float, Option("--epochs", min=0.01, help="Times through the data.")] = 1.0
    max_length: Annotated[int, Option("--max-length", min=8, help="Longest example in tokens; longer ones are set aside.")] = 1024
    limit: Limit = None
    seed: Seed = 0
    dtype: Annotated[
        Dtype, Option("--dtype", help="What is computed in, weights being float32. auto: bfloat16 where the processor has it.")
    ] = Dtype.auto
    format: Annotated[
        Format, Option("--format", help="chat: the model's template. hh: plain transcripts. auto: chat where there is one.")
    ] = Format.auto
    save_every: Annotated[
        int | None, Option("--save-every", min=1, metavar="N", help="Steps between checkpoints; default: two minutes.")
    ] = None
    restart: Annotated[bool, Option("--restart", help="Discard an unfinished DIR.partial.")] = False
    report_to: Annotated[str, Option("--report-to", help="Send metrics to wandb, tensorboard, ... as well.")] = "none"
    quiet: Quiet = False
    debug: Debug = False


def settings(step: str, run: Run, **more: Any) -> Settings:
    """A trainer's settings from its flags."""
    flags = {name: value.value if isinstance(value, Enum) else value for name, value in asdict(run).items()}
    return Settings(step=step, **flags, **more)
