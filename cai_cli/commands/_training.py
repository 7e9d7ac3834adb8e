"""The flags that the trainers share."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Annotated, Any

from typer import Argument, Option
from typer.models import OptionInfo

from cai_cli.commands._flags import Debug, Dtype, Limit, Prompting, Quiet, Seed, TrustRemoteCode
from cai_cli.training.settings import LORA_RATE, Settings

BatchSize = Annotated[
    int, Option("--batch-size", min=1, help="Examples that each process computes at once; on a CPU, in parts if they are long.")
]
GradAccum = Annotated[int, Option("--grad-accum", min=1, help="Batches per optimizer step.")]


planning: ContextVar[bool] = ContextVar("planning", default=False)
"""Whether a trainer's command is only asked for the memory that it needs (`cai plan`)."""


class Choice(str, Enum):
    """--gradient-checkpointing."""

    auto = "auto"
    on = "on"
    off = "off"


class SaveDtype(str, Enum):
    """--save-dtype."""

    bfloat16 = "bfloat16"
    float32 = "float32"


def learning_rate(default: float) -> OptionInfo:
    """--lr of a command whose default rate is `default`; see `settings`."""
    full, lora = (f"{rate:.0e}".replace("e-0", "e-") for rate in (default, default * LORA_RATE))
    return Option("--lr", min=0.0, help=f"Peak learning rate; by default {full}, or {lora} with --lora.")


@dataclass
class Run:
    """What every trainer needs: the data, the model to start from, how long and how to train, and the output."""

    files: Annotated[
        list[str],
        Argument(help="JSONL files (.gz too); FILE=WEIGHT takes the rows WEIGHT times: 0.5 is half of them.", metavar="FILES"),
    ]
    model: Annotated[
        str,
        Option("--model", "-m", help="The model to start from: a directory (safetensors), or a Hugging Face name OWNER/MODEL."),
    ]
    output: Annotated[str, Option("--output", "-o", help="The directory for the trained model.")]
    steps: Annotated[int | None, Option("--steps", min=1, help="Optimizer steps; overrides --epochs.", metavar="N")] = None
    epochs: Annotated[float, Option("--epochs", min=0.01, help="Passes over the data.")] = 1.0
    max_length: Annotated[int, Option("--max-length", min=8, help="Longest example, in tokens; longer ones are skipped.")] = 2048
    limit: Limit = None
    skip_bad: Annotated[bool, Option("--skip-bad", help="Skip bad lines, write them to DIR/skipped.jsonl, and continue.")] = False
    seed: Seed = 0
    dtype: Annotated[
        Dtype,
        Option(
            "--dtype",
            help="Type to compute in; trained weights are float32. auto: bfloat16 if the processor supports it, else float32.",
        ),
    ] = Dtype.auto
    eval: Annotated[
        list[str] | None, Option("--eval", metavar="FILE", help="Evaluate on these records, up to ten times per run; repeatable.")
    ] = None
    eval_fraction: Annotated[
        float,
        Option("--eval-fraction", min=0.0, max=0.9, help="Instead of --eval: hold out this share of FILES, by a hash of the id."),
    ] = 0.0
    lora: Annotated[
        bool, Option("--lora", help="Train low-rank adapters of all linear layers, and merge them into the model.")
    ] = False
    lora_rank: Annotated[int, Option("--lora-rank", min=1, help="Rank of the adapters; their alpha is twice the rank.")] = 16
    load_in_4bit: Annotated[
        bool, Option("--load-in-4bit", help="With --lora: quantise the base model to 4 bits (QLoRA; needs bitsandbytes).")
    ] = False
    keep_adapter: Annotated[
        bool,
        Option("--keep-adapter", help="With --lora: save only the adapter; -m takes its directory, if the base model is there."),
    ] = False
    optim: Annotated[
        str | None,
        Option("--optim", metavar="NAME", help="Optimizer by transformers' name: adamw_8bit, adafactor, ...; AdamW by default."),
    ] = None
    gradient_checkpointing: Annotated[
        Choice, Option("--gradient-checkpointing", help="Save memory by a second forward pass. auto: only if it is needed.")
    ] = Choice.auto
    trl: Annotated[
        list[str] | None,
        Option("--trl", metavar="KEY=VALUE", help="Set any other argument of TRL's configuration; repeatable."),
    ] = None
    trust_remote_code: TrustRemoteCode = False
    save_dtype: Annotated[SaveDtype, Option("--save-dtype", help="Type of the saved weights; a kept adapter is float32.")] = (
        SaveDtype.bfloat16
    )
    save_every: Annotated[
        int | None,
        Option(
            "--save-every",
            min=1,
            metavar="N",
            help="Steps between checkpoints; by default one every two minutes, if that takes at most a tenth of the time.",
        ),
    ] = None
    restart: Annotated[
        bool, Option("--restart", help="Train again: discard an unfinished DIR.partial, and replace a finished DIR.")
    ] = False
    report_to: Annotated[str, Option("--report-to", help="Also send metrics to wandb, tensorboard, ...")] = "none"
    num_processes: Annotated[
        int | None,
        Option("--num-processes", min=1, metavar="N", help="Processes to train in; by default one per GPU, or one without GPUs."),
    ] = None
    accelerate: Annotated[
        str | None,
        Option(
            "--accelerate", metavar="HOW", help="multi-gpu, fsdp2 (sharded weights), or a file that `accelerate config` wrote."
        ),
    ] = None
    quiet: Quiet = False
    debug: Debug = False


def settings(
    step: str, run: Run, prompting: Prompting, lr: float | None, rate: float, batch_size: int, grad_accum: int
) -> Settings:
    """A trainer's settings from its flags. `rate` is its default learning rate for full weights.

    If several processes are asked for, this starts them, each with this same command. It then does not return: this
    process ends when they end.
    """
    from cai_cli.training import ranks

    flags: dict[str, Any] = {name: value.value if isinstance(value, Enum) else value for name, value in asdict(run).items()}
    flags |= {
        **prompting.options(),
        "eval": run.eval or [],
        "trl": run.trl or [],
        "lr": lr if lr is not None else rate * (LORA_RATE if run.lora else 1),
    }
    accelerate, processes = flags.pop("accelerate"), flags.pop("num_processes")
    if planning.get():
        flags["plan"] = ranks.planned(accelerate, processes, ranks.visible_gpus())
    elif (launched := ranks.launch(step, accelerate, processes, run.quiet)) is not None:
        sys.exit(launched)
    return Settings(step=step, batch_size=batch_size, grad_accum=grad_accum, **flags)
