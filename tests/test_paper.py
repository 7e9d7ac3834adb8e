"""The map from the paper to the code names only what exists: files, functions, commands and flags."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.flags import flags
from tests.tiny import ROOT

PAGE = (ROOT / "docs" / "paper.md").read_text()
FOLDERS = tuple(path.name for path in ROOT.iterdir() if path.is_dir())
CODE = re.compile(r"`([\w./-]+\.(?:py|mk|yaml|jsonl|md))(?:: ([\w., ]+))?`")
COMMAND = re.compile(r"`cai ([^`]+)`")


def rows() -> list[list[str]]:
    """The cells of every row of the page's tables."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| The paper |")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def definitions(path: Path) -> set[str]:
    """The names that a module defines at its top level, and `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_every_row_has_a_statement_code_flag_and_departure() -> None:
    found = rows()
    assert len(found) > 50
    for row in found:
        assert len(row) == 4, row
        statement, code, _, departure = row
        assert statement.endswith("."), statement
        assert re.match(r"\*\*(None|Departs|Yours|Missing)\b", departure), statement
        assert code or departure.startswith("**Missing"), statement


@pytest.mark.parametrize(("path", "names"), sorted(set(CODE.findall(PAGE))))
def test_files_and_functions_exist(path: str, names: str) -> None:
    file = ROOT / path if path.startswith(FOLDERS) else ROOT / "cai_cli" / path
    assert file.is_file(), path
    if names:
        missing = {name.strip() for name in names.split(",")} - definitions(file)
        assert not missing, f"{path}: {', '.join(missing)}"


@pytest.mark.parametrize("command", sorted(set(COMMAND.findall(PAGE))))
def test_commands_and_flags_exist(command: str) -> None:
    words = command.split()
    named = [word for word in words if word.startswith("-")]
    unknown = set(named) - flags([word for word in words if not word.startswith("-")])
    assert not unknown, f"cai {command}: {', '.join(unknown)}"
