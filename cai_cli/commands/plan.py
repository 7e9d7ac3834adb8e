"""Say how much memory a trainer's run needs, before any weights are loaded; or what a whole run takes (`plan_run`).

    cai plan train-dpo preferences.jsonl -m MODEL -o dpo --lora
    cai plan run runs/demo --prompts 182831 --gpus 8

Write `plan` before a trainer's command. It checks and tokenises the data as the run would, because the longest example matters,
and the run then finds them made. It prints the bytes that each process needs, by what they are for, and the smallest usual GPU.

One step of the real model runs on tensors without data (`training/memory.py`), so the estimate knows every architecture. Only
the configuration and the tokenizer of MODEL are read, or downloaded. The device is that of this machine (without a GPU,
--dtype auto is what this CPU computes in, and the program itself is counted), or the one that --gpu describes:

    cai plan --gpu 80 train-dpo preferences.jsonl -m MODEL -o dpo --accelerate fsdp2 --num-processes 8

Not in the paper.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import typer

from cai_cli.commands._lazy import LazyGroup
from cai_cli.commands._training import planning
from cai_cli.engines import models


class Plans(LazyGroup):
    """A whole run, and the trainers. A trainer that is called through this group only plans."""

    stubs: ClassVar[dict[str, str]] = {
        "run": "The tokens, hours and disk of a run of any size, step by step.",
        "train-sft": "The memory that fine-tuning needs.",
        "train-pm": "The memory that training a preference model needs.",
        "train-dpo": "The memory that DPO needs.",
        "rl": "The memory that reinforcement learning needs.",
    }

    modules: ClassVar[dict[str, str]] = {"run": "plan_run"}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the command that is called, and tell it to plan."""
        token = planning.set(True)
        ctx.call_on_close(lambda: planning.reset(token))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Plans,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Say how much memory a trainer's run needs, before it loads any weights: write `plan` before the command. Or say what a "
    "run of any size takes: `cai plan run`.\n\n[bold]Examples:[/bold]\n\n"
    "    cai plan train-sft revisions.jsonl -m models/SmolLM2-135M-Instruct -o runs/sl-cai --lora\n\n"
    "    cai plan run runs/demo --prompts 182831 --gpus 8",
)


@app.callback()
def plan(
    ctx: typer.Context,
    gpu: Annotated[
        float | None, typer.Option("--gpu", min=1, metavar="GB", help="Plan for GPUs of this size instead of this machine's.")
    ] = None,
) -> None:
    """Plan a run."""
    if gpu:
        token = models.planned_gpu.set(int(gpu * 10**9))
        ctx.call_on_close(lambda: models.planned_gpu.reset(token))
