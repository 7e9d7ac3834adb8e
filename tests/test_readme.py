"""The README's file tree is complete and true, and examples/README.md lists everything there."""

from __future__ import annotations

import subprocess

from tests.tiny import ROOT


def tree() -> set[str]:
    """Every path that the tree names."""
    block = (ROOT / "README.md").read_text().split("## Files\n\n```text\n")[1].split("```")[0]
    found: set[str] = set()
    folders: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names, *_ = line.strip().split("  ")
        folders = folders[:depth]
        for name in names.split():
            found.add("".join(folders) + name)
        if names.endswith("/"):
            folders.append(names)
    return found


def test_what_the_tree_names_exists() -> None:
    for name in tree():
        assert (ROOT / name).exists(), name


def test_the_tree_names_every_module_of_the_package_and_every_top_level_entry() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {f"{name.partition('/')[0]}/" if "/" in name else name for name in files} - {"README.md"}
    # the file of a subcommand bears its name, which the table of commands has
    commands = {name for name in files if name.startswith("cai_cli/commands/") and not name.rpartition("/")[2].startswith("_")}
    modules = {name for name in files if name.startswith("cai_cli/") and not name.endswith("__init__.py")} - commands
    assert top | modules <= tree(), sorted((top | modules) - tree())


def test_the_page_of_the_examples_lists_every_file() -> None:
    files = subprocess.run(["git", "ls-files", "examples"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    page = (ROOT / "examples" / "README.md").read_text()
    assert [name for name in files if f"`{name.rpartition('/')[2]}`" not in page and not name.endswith("README.md")] == []
