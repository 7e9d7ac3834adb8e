"""List, show, check, convert and compare constitutions.

    cai constitution list
    cai constitution show non-evasive
    cai constitution check mine.yaml
    cai constitution convert CritiqueRevisionInstructions.json RLMadisonInstructions.json -o paper.yaml
    cai constitution diff default mine.yaml --run runs/demo -m MODEL        (`constitution_diff`)
    cai constitution infer preferences.jsonl -m MODEL -o inferred                                 (`constitution_infer`)

Departures from the paper: the packaged principles are in our own words. One principle holds the texts of both
stages (critique, revision, compare), and may have a weight and tags. The paper's own files load as they are.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, ClassVar

import yaml
from rich.text import Text
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import add_command, group_app
from cai_cli.commands._flags import Output, Principles
from cai_cli.commands._lazy import LazyGroup
from cai_cli.data.transcripts import transcript
from cai_cli.method import constitution as constitutions
from cai_cli.method.constitution import TEXTS, Constitution
from cai_cli.pipeline import outputs
from cai_cli.streams import plain_table, plural, print_table


class Commands(LazyGroup):
    """The commands below, and those that run a model."""

    stubs: ClassVar[dict[str, str]] = {
        "diff": "Compare two constitutions on a run: its answers revised and its pairs labelled under both.",
        "infer": "Infer a constitution from preferences.",
    }
    modules: ClassVar[dict[str, str]] = {"diff": "constitution_diff", "infer": "constitution_infer"}


app = group_app("List, show, check, convert and compare constitutions.", Commands)
WHAT = "Packaged names, or YAML or JSON files"


def summary(found: Constitution) -> str:
    """How many principles have each text, and how many examples of each kind there are."""
    counts = [f"{sum(getattr(p, text) is not None for p in found.principles)} {text}" for text in TEXTS]
    examples = found.examples
    shown = [f"{len(getattr(examples, kind))} {kind}" for kind in ("critique", "comparison", "reasoned")]
    return f"{plural(len(found.principles), 'principle')} ({', '.join(counts)}), examples ({', '.join(shown)})"


@add_command(app, "list", "List the packaged constitutions; in a pipe, separated by tabs.", "cai constitution list")
def list_() -> None:
    """List the packaged constitutions: one line each on a terminal, with what fits; elsewhere whole, separated by tabs."""
    table = plain_table("name", "principles", "examples", "notes")
    table.columns[-1].justify = "left"
    terminal = sys.stdout.isatty()
    for name in constitutions.packaged():
        found = constitutions.load(name)
        examples = found.examples
        total = len(examples.critique) + len(examples.comparison) + len(examples.reasoned)
        row = [name, str(len(found.principles)), str(total), " ".join(found.notes.split())]
        if terminal:
            table.add_row(*row[:-1], Text(row[-1], no_wrap=True, overflow="ellipsis"))
        else:
            streams.echo("\t".join(row))
    if terminal:
        print_table(table)


@add_command(
    app,
    "show",
    "Show a constitution's principles and examples, with those of the files that it includes.",
    "cai constitution show non-evasive\ncai constitution show default --tags evasion",
)
def show(
    names: Annotated[
        list[str] | None, Argument(metavar="[NAME...]", help=f"{WHAT}; several are joined. By default `default`.")
    ] = None,
    principles: Annotated[str | None, Option("--principles", metavar="ID,ID", help="Show only these principles.")] = None,
    tags: Annotated[str | None, Option("--tags", metavar="TAG,TAG", help="Show only principles with one of these tags.")] = None,
) -> None:
    """Show a constitution."""
    found = Principles(names or None, principles, tags).load()
    console = streams.Terminal(highlight=False, soft_wrap=True)
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
    app,
    "check",
    "Check constitution files. If one is wrong, the command says where and exits with code 2.",
    "cai constitution check mine.yaml",
)
def check(names: Annotated[list[str], Argument(metavar="NAME...", help=f"{WHAT}; each is checked separately.")]) -> None:
    """Check each file."""
    for name in names:
        found = constitutions.load(name, bare=True)
        streams.echo(f"{name}: {summary(found)}")
        for text in TEXTS:
            without = [p.id for p in found.principles if getattr(p, text) is None]
            if without and len(without) < len(found.principles):
                streams.echo(f"{name}: without a '{text}' text: {', '.join(without)}")


@add_command(
    app,
    "convert",
    "Convert constitutions of other forms into one YAML file: the paper's JSON files, or those of Hugging Face's scripts.",
    "cai constitution convert CritiqueRevisionInstructions.json RLMadisonInstructions.json -o paper.yaml",
)
def convert(
    names: Annotated[list[str], Argument(metavar="NAME...", help=f"{WHAT}; several are joined.")], output: Output = "-"
) -> None:
    """Convert to one YAML file."""
    found = constitutions.load(*names, bare=True)
    text = yaml.dump(content(found), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    outputs.write_text(output, text)


def content(found: Constitution) -> dict[str, Any]:
    """A constitution as a YAML file holds it. Loading that file gives the same principles and examples."""
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
    """Writes texts of several lines as YAML blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
