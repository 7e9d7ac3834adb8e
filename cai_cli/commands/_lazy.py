"""A group of commands that imports one only when it is called, so that its help does not import torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


class LazyGroup(TyperGroup):
    """A group of which some commands are stubs for the help; `resolve_command` imports the real one.

    A context is `Any` because typer's own copy of click is private.
    """

    stubs: ClassVar[dict[str, str]] = {}
    """The commands' names and the first lines of their help."""

    modules: ClassVar[dict[str, str]] = {}
    """The modules of the commands whose names differ from them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {**self.commands, **{name: TyperCommand(name, help=text) for name, text in self.stubs.items()}}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the command that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        if name not in self.stubs:
            return name, command, rest
        module = import_module(f"cai_cli.commands.{self.modules.get(str(name), str(name)).replace('-', '_')}")
        command = typer.main.get_command(module.app)
        command.name = name
        return name, command, rest
