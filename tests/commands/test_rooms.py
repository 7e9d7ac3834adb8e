"""The package's layout: one file per subcommand, a docstring for every room, short modules and short functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from cai_cli.main import COMMANDS
from tests.tiny import ROOT

PACKAGE = ROOT / "cai_cli"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
SUBCOMMANDS = {
    "constitution_diff", "constitution_infer", "eval_choice", "eval_compare", "eval_figures", "eval_judges", "eval_refusal", "eval_rl", "eval_scores",
    "export_dataset", "plan_run",
}  # fmt: skip
LINES, FUNCTION_LINES = 400, 50


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text())


def test_every_file_of_commands_is_a_command_or_begins_with_an_underscore() -> None:
    commands = {name.replace("-", "_") for name in COMMANDS}
    assert {name.split("_")[0] for name in SUBCOMMANDS} <= commands  # their groups
    files = {Path(name).stem for name in MODULES if name.startswith("commands/")}
    assert {name for name in files if not name.startswith("_")} == commands | SUBCOMMANDS


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_docstring(room: str) -> None:
    assert ast.get_docstring(tree(f"{room}/__init__.py"))


def test_every_folder_is_a_room() -> None:
    assert {name.split("/")[0] for name in MODULES if "/" in name} == set(ROOMS)
    assert len(ROOMS) >= 7


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_short(module: str) -> None:
    assert len((PACKAGE / module).read_text().splitlines()) <= LINES
    functions = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES} == {}
