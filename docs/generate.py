"""Write docs/commands.md, every command's help as the program prints it, and the types of the library's flags.

python docs/generate.py          tests/test_docs.py checks that the two files are what this would write
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import os
import re
import typing
from contextlib import redirect_stdout
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ |= {"COLUMNS": "110", "TERMINAL_WIDTH": "110", "NO_COLOR": "1", "TERM": "dumb"}

from typer.models import OptionInfo

from cai_cli import library
from cai_cli.main import COMMANDS, app

INTRODUCTION = """# Commands

Every command's help, written by `python docs/generate.py`. The same flag means the same everywhere.
"""
SUBCOMMANDS = {
    "constitution": ["list", "show", "check", "convert", "diff", "infer"],
    "eval": ["scores", "compare", "refusal", "rl", "choice", "figures", "judges"],
    "export": ["sft", "preferences", "inspect", "dataset"],
    "plan": ["run"],
    "import": ["hh-rlhf", "preferences", "red-team-attempts", "bench", "messages", "csv", "tsv", "text", "dataset"],
}
FUNCTIONS = ("sample", "critique", "revise", "label", "grade", "score")
"""Those of the library."""


def help_of(*words: str) -> str:
    """What `cai WORDS --help` prints, without trailing blanks."""
    out = io.StringIO()
    with redirect_stdout(out):
        app([*words, "--help"], prog_name="cai", standalone_mode=False)
    return re.sub(r"[ \t]+\n", "\n", out.getvalue()).strip("\n")


def page() -> str:
    """The whole page."""
    names = [(name, *more) for name in COMMANDS for more in [(), *((sub,) for sub in SUBCOMMANDS.get(name, []))]]
    parts = [f"## cai {' '.join(words)}\n\n```text\n{help_of(*words)}\n```\n" for words in names]
    return "\n".join([INTRODUCTION, f"```text\n{help_of()}\n```\n", *parts])


FLAGS_INTRODUCTION = '''"""The flags of the library's functions, for type checkers and editors: those of the commands.

`python docs/generate.py` writes this file. A flag that takes a list also takes one value.
"""

# ruff: noqa: E501

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

Text = str | PathLike[str]
'''


def flag_of(name: str, annotation: Any) -> str:
    """The keyword of a parameter: its flag, which may have another name."""
    _, *rest = typing.get_args(annotation) or (annotation,)
    return str(rest[0].default).lstrip("-").replace("-", "_") if rest and isinstance(rest[0], OptionInfo) else name


def help_in(annotation: Any) -> str:
    """The help of a parameter."""
    return next((str(each.help) for each in typing.get_args(annotation)[1:] if isinstance(each, OptionInfo)), "")


def kind_of(annotation: Any) -> str:
    """The type that a flag has as a keyword."""
    kind, *rest = typing.get_args(annotation) or (annotation,)
    metavar = (getattr(rest[0], "metavar", None) or "") if rest else ""
    kinds = [each for each in typing.get_args(kind) or (kind,) if each is not type(None)]
    none = " | None" if type(None) in typing.get_args(kind) else ""
    if kind == list[str] or list[str] in kinds:
        return ("Mapping[str, Any]" if "=" in metavar else "Text") + " | Sequence[Text]" + none
    [one] = kinds
    if issubclass(one, Enum):
        return f"Literal[{', '.join(repr(each.value) for each in one)}]".replace("'", '"') + none
    if issubclass(one, str):
        return ("str | Sequence[str | float]" if "," in metavar else "int | str" if metavar.startswith("K") else "str") + none
    return one.__name__ + none


def flags_page() -> str:
    """The types of the library's flags: a TypedDict per dataclass of flags, and one per function."""
    classes: dict[str, str] = {}

    def typed(name: str, about: str, bases: list[str], fields: dict[str, Any]) -> str:
        lines = [f'    {flag_of(field, kind)}: {kind_of(kind)}\n    """{help_in(kind)}"""\n' for field, kind in fields.items()]
        head = f'class {name}({", ".join(bases or ["TypedDict"])}, total=False):\n    """{about}"""\n'
        classes.setdefault(name, head + "".join(["\n", *lines] if lines else []))
        return name

    def group(kind: Any) -> str:
        bases = [group(base) for base in kind.__bases__ if dataclasses.is_dataclass(base)]
        hints = typing.get_type_hints(kind, include_extras=True)
        own = inspect.get_annotations(kind)
        return typed(str(kind.__name__), str(kind.__doc__), bases, {name: hints[name] for name in own if name != "model"})

    for name in FUNCTIONS:
        taken = inspect.signature(getattr(library, name)).parameters
        function = inspect.unwrap(import_module(f"cai_cli.commands.{name}").app.registered_commands[0].callback)
        hints = {k: v for k, v in typing.get_type_hints(function, include_extras=True).items() if k != "return"}
        groups = [
            group(kind)
            for kind in hints.values()
            if dataclasses.is_dataclass(kind) and isinstance(kind, type) and "IO" not in kind.__name__
        ]
        own = {k: v for k, v in hints.items() if not dataclasses.is_dataclass(v) and k not in taken}
        typed(f"{name.title()}Flags", f"The flags of `{name}`.", groups, own)
    return "\n\n".join([FLAGS_INTRODUCTION, *(text.rstrip() + "\n" for text in classes.values())])


if __name__ == "__main__":
    Path(__file__).with_name("commands.md").write_text(page())
    Path(str(library.__file__)).with_name("library_flags.py").write_text(flags_page())
