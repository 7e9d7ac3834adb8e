"""Join the shards of a step into the file that one run would have written.

    cai join out-*.jsonl -o out.jsonl

The order is that of the input. OUT.skipped.jsonl is joined likewise. The manifest holds the sums of the counts, and the summary
that one run would have made. Fails if every record of all shards was skipped.

Not in the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from typer import Argument

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import Output, Quiet
from cai_cli.commands.grade import Means
from cai_cli.commands.sample import Truncation
from cai_cli.data import jsonl
from cai_cli.errors import InputError
from cai_cli.method.label_summary import LabelSummary
from cai_cli.pipeline import outputs, shards
from cai_cli.pipeline.manifest import Manifest
from cai_cli.pipeline.observers import Observer

SUMMARIES: dict[str, Callable[[], Observer]] = {"sample": Truncation, "label": LabelSummary, "grade": Means}
"""What makes the summary of a step's records."""


@command("Join the shards of a step (--shard I/N) into one file, in the order of the input.", "cai join out-*.jsonl -o out.jsonl")
def app(
    files: Annotated[list[str], Argument(help="The output of each shard; their .skipped.jsonl may be among them.")],
    output: Output = "-",
    quiet: Quiet = False,
) -> None:
    """Join shards."""
    # a pattern such as out-*.jsonl also matches the skipped records
    found = shards.require_set([path for path in files if not path.endswith(".skipped.jsonl")] or files)
    paths = [path for path, _ in found]
    if any(Path(output).exists() and Path(output).samefile(path) for path in paths):
        raise InputError(f"-o {output}: is one of the shards; give another file")
    made = found[0][1]
    names = outputs.count_fields(outputs.Counts())
    counts = {name: round(sum(each["counts"].get(name, 0) for _, each in found), 3) for name in names}
    about = {key: value for key, value in made.items() if key not in ("shard", "summary", "output")}
    about["fingerprint"] = {key: value for key, value in made["fingerprint"].items() if key != "shard"}
    about |= {"counts": counts, "joined": [outputs.source(path) for path in paths]}
    reasons: Counter[str] = Counter()
    outputs.write_file(output, _lines(paths, about), about, _skipped(paths, reasons))
    outputs.require_output("join", outputs.Counts(**counts), reasons, output)
    streams.say(f"cai join: {len(paths)} shards, {streams.plural(counts['records_out'], 'record')} -> {output}", quiet)


def _skipped(paths: list[str], reasons: Counter[str]) -> Iterator[bytes]:
    """The joined lines of skipped records, whose reasons are counted."""
    for line in shards.merge(paths, skipped=True):
        reasons[outputs.reason_of(line)] += 1
        yield line


def _lines(paths: list[str], about: Manifest) -> Iterator[bytes]:
    """The joined lines. At their end the step's summary of all records enters `about`, if the step has one."""
    make = SUMMARIES.get(about["step"])
    observer = make() if make else None
    for line in shards.merge(paths):
        if observer:
            observer.count(jsonl.loads(line))
        yield line
    if observer:
        about["summary"] = observer.summary()
