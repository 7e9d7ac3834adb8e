"""A report as Markdown: the steps and the results, and the section of the results in a model card."""

from __future__ import annotations

from collections.abc import Sequence

from cai_cli.report import tables
from cai_cli.report.run import Step
from cai_cli.report.tables import Table

BEGIN, END = "<!-- results: written by cai report --cards -->", "<!-- end of the results -->"
"""What stands around a card's section of results."""


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, in one cell of a table."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#~$" else c for c in text)


def table(found: Table) -> str:
    """A table, with its title before it."""
    right = [i > 0 and all(not row[i] or tables.numeric(row[i]) for row in found.rows) for i in range(len(found.columns))]
    lines = [
        [escaped(name) for name in found.columns],
        ["---:" if number else "---" for number in right],
        *([escaped(text) for text in row] for row in found.rows),
    ]
    return "\n".join([f"**{escaped(found.title)}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def results(title: str, found: Sequence[Table]) -> str:
    """A section of the results, for the cards of a run's models."""
    return "\n\n".join([BEGIN, f"## Results of {escaped(title)}", *map(table, found), END])


def carded(card: str, section: str) -> str:
    """A model card with a section of results: in the place of an earlier one, or at its end."""
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{section}{after}" if begin and end else f"{card.rstrip()}\n\n{section}\n"


def build(title: str, steps: Sequence[Step], results: Sequence[Table]) -> str:
    """The report: a heading, a table of the steps, and one for each result."""
    return "\n\n".join([f"## {escaped(title)}", *map(table, [tables.of_steps(steps), *results])]) + "\n"
