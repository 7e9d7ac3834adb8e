"""Count what a file of records holds: lengths, principles, flags, tokens, and where it came from.

cai stats revisions.jsonl
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from typer import Argument

from cai_cli import clean, manifest
from cai_cli.commands.options import Limit, command, require_input
from cai_cli.jsonl import Record
from cai_cli.records import as_messages, read_with_ids, shape_error
from cai_cli.streams import print_table


@dataclass
class Stats:
    """Counts over the records of a file. `texts` has the length in words of each, by what it is."""

    records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    texts: dict[str, list[int]] = field(default_factory=dict)
    cut: Counter[str] = field(default_factory=Counter)
    principles: dict[str, Counter[int]] = field(default_factory=dict)
    flags: dict[str, Counter[int]] = field(default_factory=dict)
    rounds: Counter[int] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    p_chosen: list[float] = field(default_factory=list)


def generated(record: Record) -> Iterator[tuple[str, str, Record]]:
    """(what it is, its text, its meta) of every text after the prompt."""
    meta = record.get("meta", {})
    if "response" in record:
        yield "response", record["response"], meta.get("response", {})
    answers = record.get("responses", [])
    for text, entry in zip(answers, meta.get("responses") or [{}] * len(answers), strict=False):
        yield "responses", text, entry
    for i, entry in enumerate(record.get("rounds") or [], 1):
        for kind in ("critique", "revision"):
            if kind in entry:
                yield f"{kind} {i}", entry[kind], entry.get("meta", {}).get(kind, {})


def collect(records: Iterable[Record]) -> Stats:
    """The counts of some records."""
    stats = Stats()
    for record in records:
        stats.records += 1
        stats.kinds[str(record.get("kind", ""))] += 1
        if "prompt" in record:
            words = sum(len(clean.words(m["content"])) for m in as_messages(record["prompt"]))
            stats.texts.setdefault("prompt", []).append(words)
        for name, text, meta in generated(record):
            stats.texts.setdefault(name, []).append(len(clean.words(text)))
            stats.cut[name] += meta.get("finish") == "length"
            stats.tokens[name] += meta.get("completion_tokens", 0)
        for i, entry in enumerate(record.get("rounds") or [], 1):
            stats.rounds[i] += 1
            stats.principles.setdefault(str(entry.get("principle", "?")), Counter())[i] += 1
            for flag in entry.get("flags", []):
                stats.flags.setdefault(flag, Counter())[i] += 1
            for kind in ("critique", "revision"):
                for name in entry.get("meta", {}).get(kind, {}).get("stripped", []):
                    stats.flags.setdefault(f"{kind}-{name}, stripped", Counter())[i] += 1
        if isinstance(record.get("p_chosen"), int | float):
            stats.p_chosen.append(record["p_chosen"])
    return stats


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def lengths(stats: Stats) -> Table:
    """A row a kind of text: how many, words at the 10th, 50th and 90th percentile and at most, tokens, cut off."""
    table = _table("text", "texts", "words: 10%", "median", "90%", "most", "tokens", "cut off")
    for name, words in stats.texts.items():
        tenth, *_, ninetieth = quantiles(words * 2 if len(words) == 1 else words, n=10, method="inclusive")
        cut = f"{stats.cut[name] / len(words):.0%}" if name in stats.cut else ""
        tokens = f"{stats.tokens[name]:,}" if stats.tokens[name] else ""
        numbers = (str(len(words)), f"{tenth:.0f}", f"{median(words):.0f}", f"{ninetieth:.0f}", str(max(words)))
        table.add_row(name, *numbers, tokens, cut)
    return table


def by_round(first: str, counts: dict[str, Counter[int]], rounds: Counter[int]) -> Table:
    """A row a name, a column a round: how often, and as a share of the round's records."""
    table = _table(first, *(f"round {i}" for i in sorted(rounds)), "all")
    total = rounds.total()
    for name, found in sorted(counts.items(), key=lambda entry: (-entry[1].total(), entry[0])):
        cells = [f"{found[i]} ({found[i] / rounds[i]:.0%})" for i in sorted(rounds)]
        table.add_row(Text(name), *cells, f"{found.total()} ({found.total() / total:.0%})")
    return table


def lineage(path: str, tree: Tree | None = None, seen: frozenset[str] = frozenset()) -> Tree:
    """What a file was made from, by the manifests that stand beside it and its inputs."""
    beside = Path(path) / "manifest.json" if Path(path).is_dir() else Path(f"{path}.manifest.json")
    made: dict[str, Any] = manifest.read(beside) if beside.is_file() else {}
    notes = [made.get("step", "no manifest"), made.get("finished", ""), f"seed {made['seed']}" if "seed" in made else ""]
    if "constitution" in made:
        notes.append(f"constitution {made['constitution']['name']} {made['constitution']['sha256'][:8]}")
    label = Text.assemble((path, "bold"), "  ", "  ".join(filter(None, notes)))
    branch = tree.add(label) if tree else Tree(label)
    if path in seen:
        return branch
    for entry in made.get("inputs", []):
        lineage(str(entry["path"]), branch, seen | {path})
    if "model" in made:
        name = str(made["model"]["name"])
        if (Path(name) / "manifest.json").is_file():
            lineage(name, branch, seen | {path})
        else:
            branch.add(Text.assemble((name, "bold"), f"  model {made['model']['sha256'][:8]}"))
    return branch


@command("Count what a file of records holds, and tell where it came from.", "cai stats revisions.jsonl")
def app(input: Annotated[str, Argument(help="A JSONL file (.gz too); - is standard input.")] = "-", limit: Limit = None) -> None:
    """Count."""
    require_input(input)
    stats = collect(read_with_ids(input, limit, shape_error))
    console = Console(highlight=False, soft_wrap=True)
    kinds = ", ".join(f"{name} {count}" for name, count in stats.kinds.items() if name)
    console.print(Text(f"{stats.records} records{f' ({kinds})' if kinds else ''}"))
    if stats.texts:
        console.print()
        print_table(lengths(stats))
    if stats.rounds:
        console.print()
        print_table(by_round("principle", stats.principles, stats.rounds))
        console.print()
        print_table(by_round("flag", stats.flags, stats.rounds) if stats.flags else Text("no flags"))
    if stats.p_chosen:
        p = stats.p_chosen
        near = sum(x < 0.55 for x in p)
        console.print(Text(f"\np_chosen: mean {sum(p) / len(p):.3f}, most {max(p):.3f}; {near} of {len(p)} below 0.55"))
    if input != "-":
        console.print()
        print_table(lineage(input))
