"""Print a Markdown table of the flags in files of revisions: one column per file, with the count and share of its rounds.

    python examples/fault_table.py runs/faults/*-examples.jsonl

The flags are computed again by the current `cai_cli/method/clean.py`. The flags stored in the files are ignored.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record
from cai_cli.data.records import as_messages
from cai_cli.method import clean, constitution
from cai_cli.method.clean import Context

KINDS = ("critique", "revision")
NONE = "none of these"
CONSTITUTION = constitution.load(constitution.DEFAULT)


def faults(record: Record, shown: tuple[str, ...]) -> list[list[str]]:
    """The flags of each round of a record. What was stripped from a text is added as `..., stripped`."""
    prompt = "\n\n".join(message["content"] for message in as_messages(record["prompt"]))
    answer, result = record["response"], []
    for entry in record["rounds"]:
        principle, names = CONSTITUTION.get(entry["principle"]), list[str]()
        requests = {"critique": principle.critique or "", "revision": principle.revision or ""}
        for kind in KINDS:
            meta = entry["meta"][kind]
            context = Context(answer, requests[kind], prompt, entry["critique"] if kind == "revision" else "", shown)
            finish = "stop" if "turn" in meta.get("stripped", []) else meta["finish"]
            names += clean.flags(entry[kind], kind, finish, context)
            names += [f"{kind}-{name}, stripped" for name in meta.get("stripped", [])]
        result.append(names)
        answer = entry["revision"]
    return result


def main(paths: list[str]) -> None:
    """Print the table."""
    columns: dict[str, list[list[str]]] = {}
    for path in paths:
        shown = () if path.endswith("-none.jsonl") else CONSTITUTION.examples.critique
        columns[Path(path).stem] = [names for record in read_with_ids(path) for names in faults(record, shown)]
    counts = {name: Counter(flag for names in rounds for flag in names) for name, rounds in columns.items()}
    for name, rounds in columns.items():
        counts[name][NONE] = sum(not names for names in rounds)
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    print("| rounds | " + " | ".join(str(len(rounds)) for rounds in columns.values()) + " |")
    for flag in [NONE, *sorted({flag for found in counts.values() for flag in found} - {NONE})]:
        cells = (f"{counts[name][flag]} ({counts[name][flag] / len(rounds):.1%})" for name, rounds in columns.items())
        print(f"| {flag} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
