"""A preference model that reads the principle it judges by: `cai train-pm --conditioned` (SALMON, arXiv 2310.05910).

A label keeps the probability of each principle that its pair was judged by. Each becomes an example of its own, with the
principle's `compare` text in a system message. Preferences without a principle, such as people's, stay as they are. So the model
can be asked by other principles, or other weights, without new labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cai_cli import streams
from cai_cli.data import preferences, records
from cai_cli.data.jsonl import Record, as_object
from cai_cli.data.shapes import type_error
from cai_cli.errors import InputError, Skipped
from cai_cli.method.constitution import Constitution
from cai_cli.method.prompts import judged_by
from cai_cli.pipeline import lineage

TARGET = "principle"
"""What the model's configuration says that it was trained on; see `models.target`."""


def parts(record: Record, constitution: Constitution) -> list[Record]:
    """A record's preference by each of its principles. InputError if the constitution lacks one of them."""
    label = records.label_of(record)
    if label is None or not label["principles"]:
        return [record]
    if error := type_error(label, records.Label, "label"):
        raise Skipped(error)
    by_principle = records.by_principle(label)
    if not by_principle:
        raise Skipped("its label has one probability for several principles")
    if not all(0 <= p <= 1 for p in by_principle.values()):
        raise Skipped("its label has a probability that is not between 0 and 1")
    try:
        found = preferences.sides(record)
    except ValueError as problem:
        raise Skipped(str(problem)) from None
    first = label["p_first"] >= 0.5  # whether the chosen answer is the pair's first
    return [
        {**record, **found._asdict(), "prompt": judged_by(found.prompt, principle), "p_chosen": p if first else 1 - p}
        for principle, p in ((constitution.get(name), p) for name, p in by_principle.items())
    ]


def warn_of_others(paths: Iterable[str], constitution: Constitution) -> None:
    """Warn of files whose labels, by their manifests, were made with another text of the constitution."""
    for path in paths:
        used = as_object(lineage.beside(Path(path)).get("constitution"))
        if used.get("sha256") not in (None, constitution.sha256):
            streams.warn(
                f"{path}: its labels were made with the constitution '{used.get('name')}' in another text than that of -c; "
                "each principle is learned under its text in -c"
            )


def require_principles(conditioned: bool, given: bool, name: str) -> None:
    """InputError if a conditioned preference model is asked without principles, or another one with them."""
    if conditioned and not given:
        raise InputError(f"{name}: it was trained with --conditioned and judges by principles; give them with -c")
    if given and not conditioned:
        raise InputError(f"{name}: it does not read principles; leave out -c, or train one with `cai train-pm --conditioned`")
