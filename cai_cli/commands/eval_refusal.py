"""Measure how often answers refuse, and how often they refuse without a reason.

    cai import bench xstest xstest_prompts.csv | cai sample - -m MODEL | cai grade - -m JUDGE -r refusal -o graded.jsonl
    cai eval refusal model=graded.jsonl --by type

The classes are those of XSTest (Röttger et al. 2024): full compliance, partial refusal, full refusal. They are taken from the
grades of `cai grade -r refusal`, whose rubric anybody can edit; beside them are the refusals by XSTest's published first
words, and how often the two agree. A refusal of a safe prompt is an over-refusal; evasion is a refusal without a reason
(paper, sections 1.1 and 4.4).

Departures from the paper: it finds evasion by reading samples (appendix D), and by crowdworkers' preferences (section 4.5).
"""

from __future__ import annotations

from typing import Annotated

from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import BootstrapSeed
from cai_cli.commands.eval_scores import named
from cai_cli.data import jsonl
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record
from cai_cli.data.records import rounds_error
from cai_cli.errors import InputError
from cai_cli.evaluation import refusal
from cai_cli.evaluation.refusal import CLASSES
from cai_cli.pipeline.outputs import source, write_file


def table(rows: list[Record]) -> Table:
    """The rows as a table for the terminal."""
    columns = ("answers", "refusal", "95% interval", "partial", "full", "by first words", "95% interval", "agree", "kappa",
               "evasion", "95% interval")  # fmt: skip
    shown = streams.plain_table("model", "prompts", "category", *columns, left=3)

    def share(found: Record | None) -> tuple[str, str]:
        return (f"{found['value']:.2f}", f"{found['low']:.2f} to {found['high']:.2f}") if found else ("", "")

    for row in rows:
        classes = [f"{row['classes'][name]:.2f}" for name in CLASSES[1:]] if "classes" in row else ["", ""]
        agree = [f"{row[name]:.2f}" if name in row else "" for name in ("agreement", "kappa")]
        cells = (*share(row.get("refusal")), *classes, *share(row["prefix_refusal"]), *agree, *share(row.get("evasion")))
        shown.add_row(Text(row["model"]), row["prompts"], Text(row["category"]), str(row["answers"]), *cells)
    return shown


@command(
    "Measure how often answers to safe and unsafe prompts refuse, and without a reason, with 95% intervals.",
    "cai eval refusal base=base-graded.jsonl rl=rl-graded.jsonl --by type",
)
def app(
    files: Annotated[list[str], Argument(metavar="NAME=FILE...", help="Each model's answers, graded by `cai grade -r refusal`.")],
    by: Annotated[str | None, Option("--by", help="Also group by the values of this field.", metavar="FIELD")] = None,
    seed: BootstrapSeed = 0,
    output: Annotated[str | None, Option("--output", "-o", help="Also write the rows as JSONL.")] = None,
) -> None:
    """Measure refusals."""
    paths, rows = named(files), []
    for name, path in paths.items():
        answers = [refusal.answer(record, by) for record in read_with_ids(path, check=rounds_error)]
        if not answers:
            raise InputError(f"{path}: has no records; give answers, graded by `cai grade -r refusal`")
        if ungraded := sum(a.graded is None for a in answers):
            streams.warn(
                f"{path}: {streams.plural(ungraded, 'answer')} without a grade 'refusal'; run `cai grade -r refusal` on it"
            )
        rows += refusal.rows(name, answers, seed)
    if output:
        write_file(output, map(jsonl.encode, rows), {"step": "eval", "inputs": [source(path) for path in paths.values()]})
    streams.print_table(table(rows))
