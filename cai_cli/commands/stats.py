"""Count what a file of records holds: lengths, principles, flags, tokens; and show what it was made from.

    cai stats revisions.jsonl

Not in the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cai_cli.commands._command import command, require_input
from cai_cli.commands._flags import Input, Limit
from cai_cli.data.jsonl import Record
from cai_cli.data.records import as_messages, read_with_ids, shape_error
from cai_cli.method import clean
from cai_cli.pipeline import manifest
from cai_cli.streams import plain_table, print_table


@dataclass
class Stats:
    """Counts over the records of a file. A text's name is "prompt", "response", "critique 1", "revision 1", ..."""

    records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    texts: dict[str, list[int]] = field(default_factory=dict)
    """The length in words of every text, by its name."""
    cut: Counter[str] = field(default_factory=Counter)
    """Texts that ran to --max-tokens, by name."""
    principles: dict[str, Counter[int]] = field(default_factory=dict)
    """Rounds by each principle, by the number of the round."""
    flags: dict[str, Counter[int]] = field(default_factory=dict)
    """Rounds with each flag, by the number of the round."""
    rounds: Counter[int] = field(default_factory=Counter)
    """Records that have a round of this number."""
    tokens: Counter[str] = field(default_factory=Counter)
    """Generated tokens, by the name of the text."""
    p_chosen: list[float] = field(default_factory=list)


def generated(record: Record) -> Iterator[tuple[str, str, Record]]:
    """(name, text, meta) of every text after the prompt."""
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
    """Count over records."""
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


def lengths(stats: Stats) -> Table:
    """One row per name of a text: how many, words (10th, 50th and 90th percentile, maximum), tokens, share cut off."""
    table = plain_table("text", "texts", "words: 10%", "median", "90%", "max", "tokens", "cut off")
    for name, words in stats.texts.items():
        tenth, *_, ninetieth = quantiles(words * 2 if len(words) == 1 else words, n=10, method="inclusive")
        cut = f"{stats.cut[name] / len(words):.0%}" if name in stats.cut else ""
        tokens = f"{stats.tokens[name]:,}" if stats.tokens[name] else ""
        numbers = (str(len(words)), f"{tenth:.0f}", f"{median(words):.0f}", f"{ninetieth:.0f}", str(max(words)))
        table.add_row(name, *numbers, tokens, cut)
    return table


def by_round(first: str, counts: dict[str, Counter[int]], rounds: Counter[int]) -> Table:
    """One row per name, one column per round: how often, and as a share of the round's records."""
    table = plain_table(first, *(f"round {i}" for i in sorted(rounds)), "all")
    total = rounds.total()
    for name, found in sorted(counts.items(), key=lambda entry: (-entry[1].total(), entry[0])):
        cells = [f"{found[i]} ({found[i] / rounds[i]:.0%})" for i in sorted(rounds)]
        table.add_row(Text(name), *cells, f"{found.total()} ({found.total() / total:.0%})")
    return table


def lineage(path: str, tree: Tree | None = None, seen: frozenset[str] = frozenset()) -> Tree:
    """What a file was made from, by the manifests beside it and beside its inputs, as a tree."""
    beside = Path(path) / "manifest.json" if Path(path).is_dir() else Path(f"{path}.manifest.json")
    made: manifest.Manifest = manifest.read(beside) if beside.is_file() else {}
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


@command("Count what a file of records holds, and show what it was made from.", "cai stats revisions.jsonl")
def app(input: Input = "-", limit: Limit = None) -> None:
    """Count, and print tables."""
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
        console.print(Text(f"\np_chosen: mean {sum(p) / len(p):.3f}, max {max(p):.3f}; {near} of {len(p)} below 0.55"))
    if input != "-":
        console.print()
        print_table(lineage(input))
