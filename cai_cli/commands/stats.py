"""Count what a file of records holds: lengths, principles, flags, tokens; and show what it was made from.

    cai stats revisions.jsonl

Not in the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, quantiles

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cai_cli import streams
from cai_cli.commands._command import command, require_input
from cai_cli.commands._flags import Input, Limit
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record, as_object, item
from cai_cli.data.records import CUT_SHARE, as_messages, label_of, shape_error, stripped
from cai_cli.method import clean
from cai_cli.method.label_summary import LabelSummary
from cai_cli.pipeline import lineage
from cai_cli.streams import plain_table, print_table

OFTEN = 0.05
"""Share of texts with the same first two words from which on it is shown."""


@dataclass
class Stats:
    """Counts over the records of a file. A text's name is "prompt", "response", "critique 1", "revision 1", ..."""

    records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    texts: dict[str, list[int]] = field(default_factory=dict)
    """The length in words of every text, by its name."""
    cut: Counter[str] = field(default_factory=Counter)
    """Texts that ran to --max-tokens, and reasoning that it cut, by name."""
    beginnings: dict[str, Counter[str]] = field(default_factory=dict)
    """The first two words of texts, by name."""
    principles: dict[str, Counter[int]] = field(default_factory=dict)
    """Rounds by each principle, by the number of the round."""
    flags: dict[str, Counter[int]] = field(default_factory=dict)
    """Rounds with each flag, by the number of the round."""
    rounds: Counter[int] = field(default_factory=Counter)
    """Records that have a round of this number."""
    tokens: Counter[str] = field(default_factory=Counter)
    """Generated tokens, by the name of the text."""
    p_chosen: list[float] = field(default_factory=list)
    labels: LabelSummary = field(default_factory=LabelSummary)


def generated(record: Record) -> Iterator[tuple[str, str, Record, object]]:
    """(name, text, meta, reasoning before it) of every text after the prompt."""
    meta, reasoning = as_object(record.get("meta")), record.get("reasoning")
    if "response" in record:
        yield "response", record["response"], as_object(meta.get("response")), reasoning
    for n, text in enumerate(record.get("responses", [])):
        yield "responses", text, as_object(item(meta.get("responses"), n)), item(reasoning, n)
    for i, entry in enumerate(record.get("rounds") or [], 1):
        made, why = entry.get("meta", {}), as_object(entry.get("reasoning"))
        for kind in ("critique", "revision"):
            if kind in entry:
                yield f"{kind} {i}", entry[kind], as_object(made.get(kind)), why.get(kind)


def collect(records: Iterable[Record]) -> Stats:
    """Count over records."""
    stats = Stats()
    for record in records:
        stats.records += 1
        stats.kinds[str(record.get("kind", ""))] += 1
        if "prompt" in record:
            words = sum(len(clean.words(m["content"])) for m in as_messages(record["prompt"]))
            stats.texts.setdefault("prompt", []).append(words)
        for name, text, meta, reasoning in generated(record):
            count_text(stats, name, text, meta)
            if isinstance(reasoning, str):
                cut = {"finish": "length"} if meta.get("reasoning") == "cut" else {}
                count_text(stats, f"{name}: reasoning", reasoning, cut)
        for i, entry in enumerate(record.get("rounds") or [], 1):
            stats.rounds[i] += 1
            stats.principles.setdefault(str(entry.get("principle", "?")), Counter())[i] += 1
            for flag in entry.get("flags", []):
                stats.flags.setdefault(flag, Counter())[i] += 1
            for kind in ("critique", "revision"):
                for name in stripped(entry, kind):
                    stats.flags.setdefault(f"{kind}-{name}, stripped", Counter())[i] += 1
        if isinstance(record.get("p_chosen"), int | float):
            stats.p_chosen.append(record["p_chosen"])
        if label := label_of(record):
            stats.labels.count(record)
            for query in label.get("reasoning") or []:
                count_text(stats, "label: reasoning", query["text"], as_object(query["meta"]))
    return stats


def count_text(stats: Stats, name: str, text: str, meta: Record) -> None:
    """Count one text: its words, the first two of them, its tokens, and whether it was truncated."""
    stats.beginnings.setdefault(name, Counter())[" ".join(text.split(maxsplit=2)[:2])] += 1
    stats.texts.setdefault(name, []).append(len(clean.words(text)))
    stats.cut[name] += meta.get("finish") == "length"
    tokens = meta.get("completion_tokens")
    stats.tokens[name] += tokens if isinstance(tokens, int) else 0


def lengths(stats: Stats) -> Table:
    """One row per name of a text: how many, words (10th, 50th and 90th percentile, maximum), tokens, share cut off, first words.

    Those begin at least `OFTEN` of the texts: a model that begins everything alike has learned a phrase.
    """
    table = plain_table("text", "texts", "words: 10%", "median", "90%", "max", "tokens", "cut off", "often begins with")
    for name, words in stats.texts.items():
        tenth, *_, ninetieth = quantiles(words * 2 if len(words) == 1 else words, n=10, method="inclusive")
        cut = f"{stats.cut[name] / len(words):.0%}" if name in stats.cut else ""
        tokens = f"{stats.tokens[name]:,}" if stats.tokens[name] else ""
        numbers = (str(len(words)), f"{tenth:.0f}", f"{median(words):.0f}", f"{ninetieth:.0f}", str(max(words)))
        [(start, times)] = stats.beginnings.get(name, Counter({"": 0})).most_common(1)
        often = f"{start[:40]} ({times / len(words):.0%})" if start and times >= OFTEN * len(words) and times > 1 else ""
        table.add_row(name, *numbers, tokens, cut, Text(often))
    return table


def by_round(first: str, counts: dict[str, Counter[int]], rounds: Counter[int]) -> Table:
    """One row per name, one column per round: how often, and as a share of the round's records."""
    table = plain_table(first, *(f"round {i}" for i in sorted(rounds)), "all")
    total = rounds.total()
    for name, found in sorted(counts.items(), key=lambda entry: (-entry[1].total(), entry[0])):
        cells = [f"{found[i]} ({found[i] / rounds[i]:.0%})" for i in sorted(rounds)]
        table.add_row(Text(name), *cells, f"{found.total()} ({found.total() / total:.0%})")
    return table


def print_labels(stats: Stats) -> None:
    """Print how sure the labels are, and what they say about the judge."""
    p, labels = stats.p_chosen, stats.labels
    if p:
        near = sum(x < 0.55 for x in p)
        streams.echo(f"\np_chosen: mean {sum(p) / len(p):.3f}, max {max(p):.3f}; {near} of {len(p)} below 0.55")
    if labels.masses:
        streams.echo(f"letters: both together have {fmean(labels.masses):.1%} of the probability on average")
    if sentence := labels.sentence():
        streams.echo(sentence)


def warnings(stats: Stats) -> list[str]:
    """What a user should know about the records, and what to do, one sentence each."""
    shares = {name: count / len(stats.texts[name]) for name, count in stats.cut.items()}
    cut = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > CUT_SHARE)
    found = [f"truncated at --max-tokens: {cut}; make them again with a larger one"] if cut else []
    return found + stats.labels.warnings()


def origin(name: str, path: Path, tree: Tree | None = None, seen: frozenset[Path] = frozenset()) -> Tree:
    """What a file was made from, as a tree of the names that were typed; see `pipeline.lineage`."""
    made = lineage.beside(path)
    notes = [made.get("step", "no manifest"), made.get("finished", ""), f"seed {made['seed']}" if "seed" in made else ""]
    if "constitution" in made:
        notes.append(f"constitution {made['constitution']['name']} {made['constitution']['sha256'][:8]}")
    label = Text.assemble((name, "bold"), "  ", "  ".join(filter(None, notes)))
    branch = tree.add(label) if tree else Tree(label)
    if path in seen:
        return branch
    for typed, place in lineage.inputs(made, path):
        origin(typed, place, branch, seen | {path})
    if "model" in made:
        model = str(made["model"]["name"])
        place = lineage.find(model, path)
        if lineage.beside(place):
            origin(model, place, branch, seen | {path})
        else:
            branch.add(Text.assemble((model, "bold"), f"  model {made['model']['sha256'][:8]}"))
    return branch


@command("Count what a file of records holds, and show what it was made from.", "cai stats revisions.jsonl")
def app(input: Input = "-", limit: Limit = None) -> None:
    """Count, and print tables."""
    require_input(input)
    stats = collect(read_with_ids(input, limit, shape_error))
    kinds = ", ".join(f"{name} {count}" for name, count in stats.kinds.items() if name)
    streams.echo(f"{streams.plural(stats.records, 'record')}{f' ({kinds})' if kinds else ''}")
    if stats.texts:
        streams.echo()
        print_table(lengths(stats))
    if stats.rounds:
        streams.echo()
        print_table(by_round("principle", stats.principles, stats.rounds))
        streams.echo()
        print_table(by_round("flag", stats.flags, stats.rounds) if stats.flags else Text("no flags"))
    print_labels(stats)
    if input != "-":
        streams.echo()
        print_table(origin(input, Path(input)))
    for warning in warnings(stats):
        streams.warn(f"stats: {warning}")
