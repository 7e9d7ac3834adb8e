"""Published benchmarks as records: prompts, or preferences for RewardBench and HHH.

A file is read in the form in which its authors publish it: CSV, JSON, JSONL or parquet. Every column is kept under its own
name; one that is a field of our records with another meaning is kept as `original_NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cai_cli.data import importers, jsonl, transcripts
from cai_cli.data.importers import Item
from cai_cli.data.jsonl import Record
from cai_cli.data.records import assistant


@dataclass(frozen=True)
class Form:
    """The columns of a benchmark that become fields of a record."""

    prompt: str
    """The column of the prompt."""
    id: str | None = None
    """The column of the id."""
    context: str | None = None
    """The column of a text that the prompt is about, and that precedes it."""


FORMS = {
    "xstest": Form("prompt", "id"),  # Röttger et al. 2024
    "harmbench": Form("Behavior", "BehaviorID", "ContextString"),  # Mazeika et al. 2024
    "strongreject": Form("forbidden_prompt"),  # Souly et al. 2024
    "jailbreakbench": Form("Goal", "Index"),  # Chao et al. 2024
    "or-bench": Form("prompt"),  # Cui et al. 2024
    "mt-bench": Form("turns", "question_id"),  # Zheng et al. 2023
    "alpaca-eval": Form("instruction"),  # Li et al. 2023
    "rewardbench": Form("prompt", "id"),  # Lambert et al. 2024
    "hhh": Form("input"),  # Askell et al. 2021, as rows with `input` and `targets`
}
"""By the name that `cai import bench` takes."""


def read(name: str, path: str) -> Iterator[Item]:
    """The entries of a benchmark's file. `kind` is the benchmark's name. InputError if the file has none of its columns."""
    form = FORMS[name]
    for number, row in _rows(path):
        if isinstance(row, Item):
            yield row
        elif not isinstance(row, dict):
            yield Item(number, error="not an object")
        elif row.get(form.prompt) is None:
            yield Item(number, error=f"no '{form.prompt}': is this {name}'s file?")
        else:
            yield _item(number, name, form, row)


def _item(number: int, name: str, form: Form, row: Record) -> Item:
    own = {**(importers.identity(row, form.id) if form.id else {}), "kind": name}
    if name == "rewardbench":
        return importers.preference_row(number, {**row, **own}, p_chosen=1.0)
    if name == "hhh":
        return _hhh(number, row, own)
    others = importers.kept(row, *filter(None, (form.prompt, form.id)))
    prompt: Any = row[form.prompt]
    if name == "mt-bench":
        if not isinstance(prompt, list) or not prompt or not all(isinstance(turn, str) for turn in prompt):
            return Item(number, error="'turns' must be a list of strings")
        own["turns"], prompt = prompt, prompt[0]
    if form.context and (context := row.get(form.context)):
        prompt = f"{context}\n\n{prompt}"
    return importers.item(number, {**own, "prompt": prompt, **others})


def _hhh(number: int, row: Record, own: Record) -> Item:
    """A row of HHH as a preference: `targets` has two `choices`, and `labels` says which is right. Later turns have markers."""
    targets = row.get("targets")
    choices, labels = (targets.get(name) for name in ("choices", "labels")) if isinstance(targets, dict) else (None, None)
    if labels not in ([0, 1], [1, 0]) or not isinstance(choices, list) or [type(text) for text in choices] != [str, str]:
        return Item(number, error="'targets' must have two 'choices', and 'labels' with a 1 for the right one and a 0")
    prompt = transcripts.messages(f"{transcripts.HUMAN} {row['input']}", exact=True)
    if prompt[-1]["role"] != "user":
        return Item(number, error="'input' must end with the human's turn")
    chosen, rejected = (choices[labels.index(label)] for label in (1, 0))
    own |= {"p_chosen": 1.0, **importers.kept(row, "input", "targets")}
    return importers.preference(number, prompt, [assistant(chosen)], [assistant(rejected)], "", own)


def _rows(path: str) -> Iterator[tuple[int, Any]]:
    """(number, row) for each entry: of parquet by the file's name, else of JSON or CSV by how it begins."""
    if path.endswith(".parquet"):
        yield from importers.entries(path)
        return
    with jsonl.opened(path) as stream:
        if importers.starts(stream, b"[", b"{"):
            yield from importers.json_entries(path, stream)
        else:
            yield from importers.table_rows(path, stream, ",")
