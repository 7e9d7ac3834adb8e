"""The flags that a command of `cai` really has, for the tests of the documents."""

from __future__ import annotations

from importlib import import_module

import typer


def flags(words: list[str]) -> set[str]:
    """Every flag of a command, or of a group's subcommand. AssertionError if there is no such command."""
    module = import_module(f"cai_cli.commands.{words[0].replace('-', '_')}")
    command = typer.main.get_command(module.app)
    if len(words) > 1:
        assert words[1] in getattr(command, "commands", {}), " ".join(words)
        if words[1] in getattr(command, "stubs", {}):
            return flags([command.modules[words[1]]])  # type: ignore[attr-defined]
        command = command.commands[words[1]]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}
