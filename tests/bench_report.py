"""How long a report of 10,000 records takes to open and to filter in headless Chromium.

    python tests/bench_report.py

Makes a run of 10,000 prompts with an answer of each of three models, a file of revisions and grades (words drawn from a list; some
100 words per answer), reports on it, and opens the page RUNS times. Prints medians with their range, in milliseconds: until the
first records are shown, counted from the start of the navigation; and of each filter, until its records are shown.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.pipeline.outputs import write_file
from tests.browser import chromium, opened
from tests.rows import WORDS

RUNS, RECORDS, LENGTH = 5, 10_000, 100
FILTERS = {
    "search for a word": ("Search", "locksmith france"),
    "search for nothing": ("Search", "nowhere"),
    "principle": ("Principle", "principle-3"),
    "refusal class": ("Refusal", "full-refusal"),
    "grade": ("Grade", "refusal: full-refusal"),
    "order by score": ("Order", "score"),
}


def text(draw: random.Random) -> str:
    """An answer."""
    return " ".join(draw.choices(WORDS, k=LENGTH))


def records(kind: str, draw: random.Random) -> Iterator[Record]:
    """The records of a file: "revised", or the answers of a model, scored and graded."""
    classes = ("full-compliance", "partial-refusal", "full-refusal")
    for i in range(RECORDS):
        record: Record = {
            "id": f"q{i}",
            "kind": "red-team",
            "prompt": f"Question {i} {text(random.Random(i))[:100]}?",
            "response": text(draw),
        }
        if kind == "revised":
            record["rounds"] = [
                {"principle": f"principle-{draw.randrange(16)}", "critique": text(draw), "revision": text(draw)} for _ in "ab"
            ]
        else:
            p = draw.random()
            record |= {"scores": {"response": p}, "grades": {"refusal": dict(zip(classes, (p / 2, p / 2, 1 - p), strict=True))}}
        yield record


def measured(page: Path) -> dict[str, list[float]]:
    """The milliseconds of each measure, one per run."""
    times: dict[str, list[float]] = {}
    with chromium() as browser:
        for _ in range(RUNS):
            with opened(browser, page) as shown:
                times.setdefault("open", []).append(float(shown.locator("html").get_attribute("data-opened")))
                for name, (label, value) in FILTERS.items():
                    control = shown.get_by_label(label, exact=True)
                    control.fill(value) if label == "Search" else control.select_option(value)
                    times.setdefault(name, []).append(float(shown.locator("html").get_attribute("data-filtered")))
                    control.fill("") if label == "Search" else control.select_option(index=0)
    return times


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        run, draw = Path(name) / "run", random.Random(0)
        run.mkdir()
        for kind in ("revised", "base", "sft", "rl"):
            about = {"step": "revise" if kind == "revised" else "grade"}
            write_file(str(run / f"{kind}.jsonl"), map(jsonl.encode, records(kind, draw)), about)
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "cai_cli.main", "report", str(run), "--quiet"], check=True, stdout=subprocess.DEVNULL
        )
        page = run / "report.html"
        print(f"cai report: {time.monotonic() - began:.1f} s; the page has {page.stat().st_size / 2**20:.0f} MiB")
        for measure, times in measured(page).items():
            print(f"{measure}: {statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})")


if __name__ == "__main__":
    main()
