"""The flags that the trainers share."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Annotated, Any

from typer import Argument, Option

from cai_cli.commands.options import Debug, Dtype, Format, Limit, Quiet, Seed
from cai_cli.training.settings import LORA_RATE, Settings

LearningRate = Annotated[
    float | None, Option("--lr", min=0.0, help="Peak learning rate; by default the one named above, with --lora ten times it.")
]
BatchSize = Annotated[int, Option("--batch-size", min=1, help="Examples computed at once, by each process.")]
GradAccum = Annotated[int, Option("--grad-accum", min=1, help="Batches to an optimizer step.")]


@dataclass
class Run:
    """What is trained on, from which model, for how long, on what, and where it goes."""

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
    eval: Annotated[
        list[str] | None, Option("--eval", metavar="FILE", help="Measure on these records, up to ten times a run; repeatable.")
    ] = None
    eval_fraction: Annotated[
        float, Option("--eval-fraction", min=0.0, max=0.9, help="Or on this share of FILES, by a hash of the id, held out.")
    ] = 0.0
    lora: Annotated[
        bool, Option("--lora", help="Train low-rank adapters of all linear layers, and merge them into the model.")
    ] = False
    lora_rank: Annotated[int, Option("--lora-rank", min=1, help="Rank of the adapters; their alpha is twice it.")] = 16
    keep_adapter: Annotated[
        bool, Option("--keep-adapter", help="With --lora: save the adapter alone, for peft; cai takes merged models only.")
    ] = False
    save_every: Annotated[
        int | None, Option("--save-every", min=1, metavar="N", help="Steps between checkpoints; default: two minutes.")
    ] = None
    restart: Annotated[bool, Option("--restart", help="Discard an unfinished DIR.partial.")] = False
    report_to: Annotated[str, Option("--report-to", help="Send metrics to wandb, tensorboard, ... as well.")] = "none"
    num_processes: Annotated[
        int | None, Option("--num-processes", min=1, metavar="N", help="Train in N processes: one a GPU, or on CPUs by torchrun.")
    ] = None
    accelerate: Annotated[
        str | None,
        Option("--accelerate", metavar="HOW", help="multi-gpu, fsdp2 (weights sharded), or a file of `accelerate config`."),
    ] = None
    quiet: Quiet = False
    debug: Debug = False


def settings(step: str, run: Run, lr: float | None, rate: float, **more: Any) -> Settings:
    """A trainer's settings from its flags; `rate` is its default learning rate.

    Where the run is to have several processes, they are started here, each with this command, and this one ends with them.
    """
    from cai_cli.training import ranks

    flags = {name: value.value if isinstance(value, Enum) else value for name, value in asdict(run).items()}
    flags |= {"eval": run.eval or [], "lr": lr if lr is not None else rate * (LORA_RATE if run.lora else 1)}
    launched = ranks.launch(flags.pop("accelerate"), flags.pop("num_processes"))
    if launched is not None:
        sys.exit(launched)
    return Settings(step=step, **flags, **more)
