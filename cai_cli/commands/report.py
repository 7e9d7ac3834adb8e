"""Print a table of the steps of a run, from their manifests: records, tokens and seconds, in the order they ended.

    cai report runs/demo

Not in the paper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table
from rich.text import Text
from typer import Argument

from cai_cli.commands._command import command
from cai_cli.errors import InputError
from cai_cli.pipeline import manifest
from cai_cli.pipeline.manifest import Manifest
from cai_cli.streams import plain_table, print_table


def steps(folder: Path) -> list[tuple[str, Manifest]]:
    """(name, manifest) of every finished step in a folder, in the order they ended."""
    paths = [*folder.glob("*.manifest.json"), *folder.glob("*/manifest.json")]
    found = []
    for path in paths:
        name = path.parent.name if path.name == "manifest.json" else path.name.removesuffix(".manifest.json")
        found.append((name, manifest.read(path)))
    return sorted(found, key=lambda entry: (entry[1].get("finished", ""), entry[0]))


def table(found: list[tuple[str, Manifest]]) -> Table:
    """One row per step that has counts and seconds, and the sum of the tokens and seconds."""
    shown = plain_table("output", "step", "in", "out", "skipped", "steps", "tokens", "seconds", left=2)
    total = [0, 0.0]
    for name, content in found:
        counts = content.get("counts")
        if not counts or "seconds" not in counts:
            continue
        tokens = counts.get("tokens", counts.get("prompt_tokens", 0) + counts.get("completion_tokens", 0))
        total = [total[0] + tokens, total[1] + counts["seconds"]]
        numbers = (
            counts["records_in"],
            counts["records_out"],
            counts.get("skipped") or "",
            counts.get("steps", ""),
            f"{tokens:,}",
        )
        shown.add_row(Text(name), Text(str(content["step"])), *map(str, numbers), f"{counts['seconds']:.1f}")
    shown.add_section()
    shown.add_row("all", "", "", "", "", "", f"{total[0]:,}", f"{total[1]:.1f}", style="bold")
    return shown


@command("Print a table of the steps of a run, from their manifests: records, tokens, seconds.", "cai report runs/demo")
def app(folder: Annotated[str, Argument(help="The folder that holds the run's files.", metavar="DIR")]) -> None:
    """Report on a run."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the run's files")
    found = steps(Path(folder))
    if not found:
        raise InputError(f"{folder}: has no manifest of a finished step; give the folder that holds the run's files")
    print_table(table(found))
