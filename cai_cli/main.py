"""The `cai` program. It lists its subcommands and imports one only when it is called.

So `cai --help` answers at once and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cai_cli import __version__

COMMANDS = {
    "sample": "Answer prompts: one response per prompt, or -n 2 for pairs.",
    "critique": "Criticise each answer by a principle of the constitution (opens a round).",
    "revise": "Rewrite each answer after its critique (closes the round).",
    "label": "Ask a feedback model which of two answers is better, by a principle: soft preferences.",
    "train-sft": "Fine-tune a model on revisions (SL-CAI).",
    "train-pm": "Train a preference model on soft labels.",
    "rl": "Train a model by reinforcement learning against a preference model (RL-CAI).",
    "train-dpo": "Train a model directly on preferences (DPO): the cheap alternative to train-pm and rl.",
    "constitution": "List, show, check and convert constitutions.",
    "prompts": "Generate new prompts similar to those of a file, with few-shot examples.",
    "score": "Score every text of each record with a preference model.",
    "eval": "Compare models by the scores of their answers, or as judges.",
    "import": "Convert other data into records.",
    "export": "Convert records into the columns that TRL trains on.",
    "mix": "Join files of records by weight or count, and shuffle them.",
    "split": "Split records into two parts by a hash of the id.",
    "show": "Print records for a person to read.",
    "stats": "Count what a file of records holds: lengths, principles, flags, tokens; and show what it was made from.",
    "report": "Print a table of the steps of a run, from their manifests.",
}


class LazyGroup(TyperGroup):
    """A group whose commands are stubs for the help; `resolve_command` imports the real one.

    A context is `Any` because typer's own copy of click is private.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=text) for name, text in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the command that is called."""
        name, _, rest = super().resolve_command(ctx, args)
        module = import_module(f"cai_cli.commands.{str(name).replace('-', '_')}")
        command = typer.main.get_command(module.app)
        command.name = name
        return name, command, rest


app = typer.Typer(
    cls=LazyGroup,
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
    """Entry point of the console command."""
    app(prog_name="cai")


if __name__ == "__main__":
    main()
