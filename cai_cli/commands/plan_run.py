"""Say what a run of any size would take, step by step, from the manifests of a small one.

    cai plan run runs/demo --prompts 182831 --rounds 4 --gpus 8
    cai plan run runs/demo --prompts 182831 --prompts helpful-prompts.jsonl=135296 --rate 5000 --rate label=20000

It reads the run's folder as `cai report` does, and loads no model. It prints the records, tokens, hours and disk of each step,
their sums, and what it assumed (`report/growth.py`). The time is that of the small run in proportion, or the tokens at --rate.

Not in the paper. Its size is in section 3.2: 182,831 red-team prompts with four revisions each, and 135,296 helpful prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.filesize import decimal
from rich.text import Text
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.errors import InputError
from cai_cli.report import run
from cai_cli.report.growth import TRAINERS, Growth, Row, total
from cai_cli.report.run import Step
from cai_cli.streams import plural

COLUMNS = ("output", "step", "in", "out", "steps", "tokens read", "generated", "reused", "device hours", "wall hours", "disk")


def numbers(flag: str, given: list[str]) -> dict[str, float]:
    """[NAME=]N as {name: number}; the name of a number alone is "". InputError if it is no number above 0."""
    found = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number.replace(",", ""))
        except ValueError:
            found[name] = 0.0
        if not 0 < found[name] < 1e15:
            raise InputError(f"{flag} {text}: give a number above 0, or NAME=NUMBER")
    return found


def cells(row: Row, gpus: int) -> list[str]:
    """A row of the table."""
    counts = [f"{n:,.0f}" if n is not None else "" for n in (row.records_in, row.records_out, row.steps)]
    tokens = [f"{n:,.0f}" if n else "" for n in (row.read, row.generated, row.reused)]
    hours = [f"{n / 3600:,.2f}" if n else "" for n in (row.seconds, row.seconds / gpus)]
    return [row.name, row.kind, *counts, *tokens, *hours, decimal(round(row.disk))]


def assumed(steps: list[Step], sources: list[tuple[str, float, float]], rates: dict[str, float], gpus: int) -> list[str]:
    """The lines below the table: what the numbers assume."""
    sizes = [
        f"{name} {planned:,.0f}" + (f" ({now:,.0f} in this run)" if now != planned else "") for name, now, planned in sources
    ]
    kinds = {step.kind for step in steps if step.counts}
    named = [
        f"{rate:,g} tokens/s in {kind or 'every other step' if len(rates) > 1 else 'every step'}" for kind, rate in rates.items()
    ]
    lines = [
        f"records of the files that the run begins with: {', '.join(sizes)}",
        "what no trainer's data is made from keeps its size, such as answers to held-out prompts",
    ]
    if rates:
        lines.append(f"one device computes {', '.join(named)}: tokens read and generated, without the reused")
    if "" not in rates and kinds - rates.keys():
        lines.append(f"{'other time' if rates else 'time'} is this run's, on its device and with its models, in proportion")
        lines.append("a generating step's time includes loading its model, so a small run gives too much")
    lines.append(f"the steps run one after another, each on {plural(gpus, 'device')}, which share its work equally")
    if kinds & set(TRAINERS):
        lines.append(
            "a trainer's steps grow with its examples: as many passes over them as in this run; a model keeps its size on disk"
        )
    lines.append("disk is for the outputs alone, without checkpoints, journals and downloaded models")
    if cached := [step.name for step in steps if step.counts.get("cached_calls")]:
        lines.append(f"answers of {', '.join(cached)} came from the cache, so their time is too short; run with CAI_NO_CACHE=1")
    return lines


@command(
    "Say what a run of any size takes, step by step: tokens, hours and disk, from the manifests of a small run.",
    "cai plan run runs/demo --prompts 182831 --rounds 4 --gpus 8\n"
    "cai plan run runs/demo --prompts 182831 --prompts helpful-prompts.jsonl=135296 --rate 5000 --rate label=20000",
)
def app(
    folder: Annotated[Path, Argument(help="The folder of a small run, finished.", metavar="DIR")],
    prompts: Annotated[
        list[str],
        Option(
            "--prompts",
            "-n",
            metavar="[FILE=]N",
            help="Prompts of the planned run; FILE=N: of one of the files that it begins with.",
        ),
    ],
    rounds: Annotated[
        int | None, Option("--rounds", min=1, metavar="N", help="Rounds of critique and revision; by default as in DIR.")
    ] = None,
    gpus: Annotated[int, Option("--gpus", min=1, metavar="N", help="GPUs, or machines without one, that share the work.")] = 1,
    rate: Annotated[
        list[str] | None,
        Option("--rate", metavar="[STEP=]N", help="Tokens per second of one GPU, instead of DIR's; STEP=N: in label, rl, ..."),
    ] = None,
) -> None:
    """Plan a run of any size from a small one."""
    found = run.steps(folder)
    steps = [step for step in found if step.finished]
    growth, rates = Growth(steps), numbers("--rate", rate or [])
    if unknown := [kind for kind in rates if kind and kind not in {step.kind for step in steps}]:
        raise InputError(f"--rate {unknown[0]}=...: {folder} has no such step; it has {', '.join({s.kind: 0 for s in steps})}")
    if rounds and not 1 <= growth.rounds <= rounds:
        raise InputError(
            f"--rounds {rounds}: {folder} has {plural(growth.rounds, 'round')}; give a folder that has from 1 to {rounds}"
        )
    sources = growth.grow(numbers("--prompts", prompts))
    rows = growth.rows(rounds or growth.rounds, rates)
    table = streams.plain_table(*COLUMNS, left=2)
    for row in [*rows, total(rows)]:
        table.add_row(*map(Text, cells(row, gpus)), style="bold" if row.name == "all" else None)
    streams.print_table(table)
    streams.echo("\nassumed:")
    for line in assumed(steps, sources, rates, gpus):
        streams.echo(f"- {line}")
    if left := [step.name for step in found if not step.finished]:
        streams.warn(f"left out, because they are not finished: {', '.join(left)}")
