"""Report on a run: one HTML page that holds everything, and a table of the steps.

    cai report runs/demo                          a table, and the page runs/demo/report.html
    cai report runs/demo --serve                  the same page in the browser while the run goes on
    cai report runs/demo --markdown >> notes.md   the tables as Markdown
    cai report runs/demo --cards                  also the results in the README.md of each model of the run

The page needs no network and opens from disk. It shows the run as a picture; the results that `cai eval` wrote into the folder,
ratings from comparisons, and refusals; the paper's figures; the training curves; every manifest; and a reader of the records: all
that the run made from a prompt together, with search, filters, differences of revisions, both orders of a label, and the file and
line that each came from. Of more than 10,000 prompts, 10,000 are drawn.

The figures are those of the paper (see `cai eval figures`); the page is not in it.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands import eval_figures
from cai_cli.commands._command import command
from cai_cli.commands._flags import BootstrapSeed, Quiet
from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.data.records import rounds_error
from cai_cli.evaluation import figures, refusal
from cai_cli.pipeline import outputs
from cai_cli.report import markdown, page, records, run, tables
from cai_cli.report.page import Figure, Report
from cai_cli.report.run import Step
from cai_cli.report.serve import server, version
from cai_cli.report.sources import principles_of
from cai_cli.report.tables import Table


def drawn(rows: dict[str, list[Record]]) -> list[Figure]:
    """The figures that have data."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, _) in eval_figures.FIGURES.items():
            if rows[name]:
                figures.save(name, kind, rows[name], Path(folder), [])
                svg = (Path(folder) / f"{name}.svg").read_text("utf-8")
                caption = (kind.__doc__ or name).splitlines()[0].split(": `")[0].rstrip(".")
                made.append(Figure(name, page.inline(svg, name), f"{caption}."))
    return made


def refusals(steps: list[Step], seed: int) -> list[Table]:
    """How often the answers of each file refuse, as `cai eval refusal` tells."""
    rows = []
    for name, path in records.answer_files(steps):
        answers = [refusal.answer(record, None) for record in jsonl.read(str(path)) if not rounds_error(record)]
        rows += refusal.rows(name, answers, seed)
    return [tables.of_rows("Refusals: by the first words, and by the grades of cai grade -r refusal", rows)] if rows else []


def results(steps: list[Step], seed: int) -> list[Table]:
    """The tables of the results: what `cai eval` wrote, comparisons, and refusals."""
    made = [table for step, rows in run.measures(steps) for table in tables.of_eval(step.name, rows)]
    for step in steps:
        if step.kind == "eval compare" and step.finished and step.path.is_file():
            made.append(tables.of_rows(f"Comparisons: {step.name}", eval_figures.compared(step.path, seed)))
    known = any("prefix_refusal" in row for _, rows in run.measures(steps) for row in rows)
    return made if known else made + refusals(steps, seed)


def gathered(folder: Path, seed: int) -> Report:
    """Everything that the page shows."""
    steps = run.steps(folder)
    reader = records.collect(steps)
    rows, _ = eval_figures.rows_of(folder, seed)
    principles: dict[str, Record] = {}
    for step in steps:
        principles |= {name: asdict(found) for name, found in principles_of(step.path).items()}
    missing = {name: example for name, (_, example) in eval_figures.FIGURES.items() if not rows[name]}
    name = Path(os.path.abspath(folder)).name
    return Report(
        name, steps, run.graph(steps), results(steps, seed), drawn(rows), missing, run.curves(steps), reader,
        principles,
    )  # fmt: skip


def fill_cards(found: Report) -> list[str]:
    """Put the results into the cards of the run's models. Returns their paths."""
    cards = [step.path / "README.md" for step in found.steps if step.finished and (step.path / "README.md").is_file()]
    section = markdown.results(found.title, found.results)
    for card in cards:
        outputs.write_text(str(card), markdown.carded(card.read_text("utf-8"), section))
    return [str(card) for card in cards]


def follow(folder: Path, seed: int, port: int) -> None:
    """Serve the page until the command is interrupted."""

    def build(now: str) -> str:
        found = gathered(folder, seed)
        found.version = now
        return page.build(found)

    build(version(folder))  # so that bad input is an error before the address is printed
    with server(folder, build, port) as serving:
        streams.say(f"cai report: http://127.0.0.1:{serving.server_port}/ follows {folder}; Ctrl-C ends it")
        serving.serve_forever()


@command(
    "Report on a run: one HTML page with its steps, results, figures, curves and records, and a table of the steps.",
    "cai report runs/demo\ncai report runs/demo --serve\ncai report runs/demo --markdown >> notes.md\n"
    "cai report runs/demo --cards",
)
def app(
    folder: Annotated[Path, Argument(help="The folder that holds the run's files.", metavar="DIR")],
    output: Annotated[str | None, Option("--output", "-o", help="The page's file; by default DIR/report.html.")] = None,
    serve: Annotated[bool, Option("--serve", help="Serve the page on this machine only; it follows the run.")] = False,
    port: Annotated[int, Option("--port", min=0, max=65535, help="The port of --serve; 0 for any that is free.")] = 8000,
    as_markdown: Annotated[bool, Option("--markdown", help="Print the tables as Markdown, and write no page.")] = False,
    cards: Annotated[bool, Option("--cards", help="Put the results into the README.md of each model of the run.")] = False,
    seed: BootstrapSeed = 0,
    quiet: Quiet = False,
) -> None:
    """Report on a run."""
    if serve:
        return follow(folder, seed, port)
    found = gathered(folder, seed)
    if cards:
        made = fill_cards(found)
        streams.say(f"cai report: the results are in {', '.join(made) or 'no card: the folder has no trained model'}", quiet)
    if as_markdown:
        return typer.echo(streams.visible(markdown.build(found.title, found.steps, found.results)), nl=False)
    path = output or str(folder / "report.html")
    outputs.write_text(path, page.build(found))
    summary = tables.of_steps(found.steps)
    shown = streams.plain_table(*summary.columns, left=2)
    for row in summary.rows:
        shown.add_row(*map(Text, row), style="bold" if row is summary.rows[-1] else None)
    streams.print_table(shown)
    streams.say(f"cai report: wrote {path}; open it in a browser", quiet)
