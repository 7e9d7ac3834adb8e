"""The `cai` program: lists its subcommands, and imports one only when it is called.

`cai --help` so answers at once, without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cai_cli import __version__

COMMANDS = {
    "sample": "Answer prompts: one response each, or n for pairs.",
    "critique": "Criticise each answer by a principle of the constitution (opens a round).",
    "revise": "Rewrite each answer after its critique (closes the round).",
    "label": "Ask the model which of two answers is better, by a principle: soft preferences.",
    "train-sft": "Fine-tune a model on revisions (SL-CAI).",
    "train-pm": "Train a preference model on soft labels.",
    "rl": "Reinforcement learning against a preference model (RL-CAI).",
    "train-dpo": "Train a model on preferences directly: the cheap alternative to train-pm and rl.",
    "constitution": "List, show, check and convert constitutions.",
    "prompts": "Make new prompts like those that you have, by few-shot generation.",
    "score": "Score any record's texts with a preference model.",
    "eval": "Compare models by what they wrote, or as judges.",
    "import": "Turn other people's data into records.",
    "export": "Turn records into the columns that TRL trains on.",
    "mix": "Join files of records by weight or count, shuffled.",
    "split": "Split records in two by a hash of the id.",
    "show": "Print records as a person would want to read them.",
    "stats": "Count what a file of records holds: lengths, principles, flags, tokens, and where it came from.",
    "report": "Tabulate the steps of a run from their manifests.",
}


class LazyGroup(TyperGroup):
    """A group whose commands are stubs for help, and imported in `resolve_command`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command's name, in the order of the method."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stub that has the command's summary, or None."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
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


@app.callback(epilog="Each command explains itself: cai COMMAND --help")
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
