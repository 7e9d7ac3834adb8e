"""A Markdown table of what is flagged in files of revisions: a column a file, counts and shares of their rounds.

python examples/fault_table.py runs/faults/*-examples.jsonl

The flags are those that `cai_cli/clean.py` gives the texts now, whatever the files say.
"""

import sys
from collections import Counter
from pathlib import Path

from cai_cli import clean, constitution
from cai_cli.clean import Context
from cai_cli.jsonl import Record
from cai_cli.records import as_messages, read_with_ids

KINDS = ("critique", "revision")
FOUND = constitution.load(constitution.DEFAULT)


def faults(record: Record, shown: tuple[str, ...]) -> list[list[str]]:
    """The flags of each round of a record, and what was stripped as `...-stripped`."""
    prompt = "\n\n".join(message["content"] for message in as_messages(record["prompt"]))
    answer, result = record["response"], []
    for entry in record["rounds"]:
        principle, names = FOUND.get(entry["principle"]), list[str]()
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


columns = {}
for path in sys.argv[1:]:
    shown = () if path.endswith("-none.jsonl") else FOUND.examples.critique
    columns[Path(path).stem] = [names for record in read_with_ids(path) for names in faults(record, shown)]
counts = {name: Counter(flag for names in rounds for flag in names) for name, rounds in columns.items()}
print("| | " + " | ".join(columns) + " |")
print("|---|" + "---|" * len(columns))
print("| rounds | " + " | ".join(str(len(rounds)) for rounds in columns.values()) + " |")
for name, rounds in columns.items():
    counts[name]["none of these"] = sum(not names for names in rounds)
for flag in ["none of these", *sorted({flag for found in counts.values() for flag in found} - {"none of these"})]:
    cells = (f"{counts[name][flag]} ({counts[name][flag] / len(rounds):.1%})" for name, rounds in columns.items())
    print(f"| {flag} | " + " | ".join(cells) + " |")
