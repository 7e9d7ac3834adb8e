"""List, show, check and convert constitutions.

cai constitution list
cai constitution show non-evasive
cai constitution check mine.yaml
cai constitution convert CritiqueRevisionInstructions.json RLMadisonInstructions.json -o paper.yaml
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument

from cai_cli import constitution as constitutions
from cai_cli import outputs
from cai_cli.commands.options import Output, Principles, add_command
from cai_cli.constitution import TEXTS, Constitution
from cai_cli.streams import print_table
from cai_cli.transcripts import transcript

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
WHAT = "Packaged names, YAML files, or JSON of another form"


@app.callback()
def group() -> None:
    """List, show, check and convert constitutions."""


def summary(found: Constitution) -> str:
    """How many principles have each text, and how many examples there are."""
    counts = [f"{sum(getattr(p, text) is not None for p in found.principles)} {text}" for text in TEXTS]
    examples = found.examples
    shown = [f"{len(getattr(examples, kind))} {kind}" for kind in ("critique", "comparison", "reasoned")]
    return f"{len(found.principles)} principles ({', '.join(counts)}), examples ({', '.join(shown)})"


@add_command(app, "list", "The constitutions that come with the program.", "cai constitution list")
def list_() -> None:
    """List."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "principles", "examples", "notes"):
        table.add_column(column, overflow="fold")
    for name in constitutions.packaged():
        found = constitutions.load(name)
        examples = found.examples
        total = len(examples.critique) + len(examples.comparison) + len(examples.reasoned)
        table.add_row(name, str(len(found.principles)), str(total or ""), Text(" ".join(found.notes.split())))
    print_table(table)


@add_command(
    app,
    "show",
    "A constitution's principles and examples, with what it includes.",
    "cai constitution show non-evasive\ncai constitution show default --tags evasion",
)
def show(
    names: Annotated[list[str] | None, Argument(metavar="[NAME...]", help="As for --constitution.")] = None,
    principles: Annotated[str | None, typer.Option("--principles", metavar="ID,ID", help="Only these.")] = None,
    tags: Annotated[str | None, typer.Option("--tags", metavar="TAG,TAG", help="Only those that bear one of these.")] = None,
) -> None:
    """Show."""
    found = Principles(names or None, principles, tags).load()
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"{found.name}{f' {found.version}' if found.version else ''}: {summary(found)}", style="bold"))
    if found.notes:
        console.print(Text(" ".join(found.notes.split())))
    for principle in found.principles:
        title = [principle.id, f"[{', '.join(principle.tags)}]" if principle.tags else ""]
        title += [f"weight {principle.weight:g}"] if principle.weight != 1 else []
        console.print(Text(f"\n{' '.join(filter(None, title))}", style="bold cyan"))
        for text in TEXTS:
            if value := getattr(principle, text):
                console.print(Text.assemble((f"  {text}: ", "bold"), value))
    if not principles and not tags:
        shown = [("critique and revision", example) for example in found.examples.critique]
        for e in found.examples.comparison:
            shown.append(("comparison", f"{transcript(e.prompt)}\n\nbetter: {e.better}\n\nworse: {e.worse}"))
        shown += [("reasoned comparison", example) for example in found.examples.reasoned]
        for kind, example in shown:
            console.print(Text(f"\nexample of {kind}", style="bold cyan"))
            console.print(Text(example.strip()))


@add_command(
    app, "check", "Check constitution files: exits with 2 and says where, if one is wrong.", "cai constitution check mine.yaml"
)
def check(names: Annotated[list[str], Argument(metavar="NAME...", help=f"{WHAT}; each is checked for itself.")]) -> None:
    """Check."""
    for name in names:
        found = constitutions.load(name, bare=True)
        typer.echo(f"{name}: {summary(found)}")
        for text in TEXTS:
            without = [p.id for p in found.principles if getattr(p, text) is None]
            if without and len(without) < len(found.principles):
                typer.echo(f"{name}: without a '{text}' text: {', '.join(without)}")


@add_command(
    app,
    "convert",
    "Turn other people's constitutions into one YAML file: the paper's JSON files, or those of Hugging Face's scripts.",
    "cai constitution convert CritiqueRevisionInstructions.json RLMadisonInstructions.json -o paper.yaml",
)
def convert(
    names: Annotated[list[str], Argument(metavar="NAME...", help=f"{WHAT}; several are joined.")], output: Output = "-"
) -> None:
    """Convert."""
    found = constitutions.load(*names, bare=True)
    text = yaml.dump(content(found), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    outputs.write_text(output, text)


def content(found: Constitution) -> dict[str, Any]:
    """A constitution as its YAML file holds it: loading that gives the same principles and examples."""
    principles = [
        {
            "id": p.id,
            **({"tags": list(p.tags)} if p.tags else {}),
            **({"weight": p.weight} if p.weight != 1 else {}),
            **{text: value for text in TEXTS if (value := getattr(p, text)) is not None},
        }
        for p in found.principles
    ]
    examples = {
        "critique": [example.removeprefix("\n\n") for example in found.examples.critique],
        "comparison": [{"prompt": e.prompt, "better": e.better, "worse": e.worse} for e in found.examples.comparison],
        "reasoned": list(found.examples.reasoned),
    }
    whole: dict[str, Any] = {"name": found.name, "version": found.version, "notes": found.notes, "principles": principles}
    whole["examples"] = {kind: entries for kind, entries in examples.items() if entries}
    return {key: value for key, value in whole.items() if value}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
