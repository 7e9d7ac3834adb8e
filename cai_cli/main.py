"""The `cai` program. It lists its subcommands and imports one only when it is called.

So `cai --help` answers at once and does not import torch.
"""

from __future__ import annotations

import gc
import signal
import sys
from typing import Annotated, ClassVar

import typer

from cai_cli import __version__, errors
from cai_cli.commands._lazy import LazyGroup

COMMANDS = {
    "sample": "Answer prompts: one response per prompt, or -n 2 for pairs.",
    "critique": "Criticise each answer by a principle of the constitution (opens a round).",
    "revise": "Rewrite each answer after its critique (closes the round).",
    "label": "Ask a feedback model which of two answers is better, by a principle: soft preferences.",
    "train-sft": "Fine-tune a model on revisions (SL-CAI).",
    "train-pm": "Train a preference model on soft labels, or a scorer on ratings.",
    "rl": "Train a model by reinforcement learning against a preference model, or a feedback model (RL-CAI).",
    "train-dpo": "Train a model directly on preferences (DPO): the cheap alternative to train-pm and rl.",
    "plan": "Say how much memory a trainer's run needs, or what a run of any size takes.",
    "constitution": "List, show, check, convert and compare constitutions.",
    "prompts": "Generate new prompts similar to those of a file, with few-shot examples.",
    "score": "Score every text of each record with a preference model.",
    "grade": "Grade each answer by the criteria of a rubric or a constitution.",
    "combine": "Join several judges' labels or grades, and say how far they agree.",
    "eval": "Compare models: by scores, by a judge's choices, by refusals, or as judges.",
    "import": "Convert other data into records.",
    "export": "Convert records into the columns that TRL trains on, a dataset, or a log for Inspect's viewer.",
    "mix": "Join files of records by weight or count, and shuffle them.",
    "split": "Split records into two parts by a hash of the id.",
    "join": "Join the shards of a step into one file, in the order of the input.",
    "show": "Print records for a person to read.",
    "stats": "Count what a file of records holds: lengths, principles, flags, tokens; and show what it was made from.",
    "trace": "Follow a record back through every step that made it, to its prompt's file and line.",
    "report": "Print a table of the steps of a run, from their manifests.",
}


class Commands(LazyGroup):
    """All commands."""

    stubs: ClassVar[dict[str, str]] = COMMANDS


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cai {__version__}")
        raise typer.Exit


@app.callback(
    epilog="cai COMMAND --help explains a command and gives an example. The environment sets flags too: CAI_MODEL sets --model."
)
def cai(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Constitutional AI in JSONL: sample, critique, revise, label, train."""


def main() -> None:
    """Entry point of the console command. A signal ends it with 130 while modules are imported, too."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell ignores SIGINT for its background jobs
            signal.signal(number, errors.interrupt)
    # Imports leave many objects, which never become garbage; to look through them again and again takes half a second.
    gc.set_threshold(50_000, 20, 20)
    try:
        app(prog_name="cai")
    except (KeyboardInterrupt, SystemExit) as end:
        # If the signal arrived while a library ran generated code (`exec`), Python would end by SIGINT whatever code is asked
        # for. It forgets that at the next `exec`.
        exec("")
        sys.exit(130 if isinstance(end, KeyboardInterrupt) else end.code)


if __name__ == "__main__":
    main()
