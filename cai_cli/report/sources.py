"""Where records come from: the record that a step made another from, and the principles by which a file was made."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError
from cai_cli.method import constitution
from cai_cli.method.constitution import TEXTS, Constitution, Principle
from cai_cli.pipeline import lineage
from cai_cli.pipeline.manifest import Manifest


def ids_before(record: Record) -> list[str]:
    """The ids that a record may have in an input of the step that made it, the likeliest first.

    `cai mix` makes ids unique by the name of a file and a count; `cai label` gives each pair an id of its own.
    """
    identity = str(record["id"])
    mixed = identity.removeprefix(f"{record.get('mixed_from')}:")
    source = str(record.get("source_id", identity))
    ids = [identity, mixed, mixed.rpartition("#")[0], source, identity.rpartition("/")[0]]
    return list(dict.fromkeys(filter(None, ids)))


def origin(record: Record) -> str:
    """The id of the prompt that a record comes from, as far as the record tells."""
    return str(record.get("source_id", record["id"])).removeprefix(f"{record.get('mixed_from')}:")


def inputs_first(record: Record, inputs: Iterable[Path]) -> list[Path]:
    """The inputs of the step that wrote a record; first the one that `cai mix` took it from."""
    return sorted(inputs, key=lambda path: path.stem != record.get("mixed_from"))


def principles_of(path: Path) -> dict[str, Principle]:
    """The principles by which a file and its inputs were made, as far as their constitutions are at hand and agree."""
    found: dict[str, Principle] = {}
    differ: set[str] = set()
    for output, made in lineage.history(path):
        loaded = constitution_of(made, output)
        for new in loaded.principles if loaded else ():
            old = found.setdefault(new.id, new)
            differ |= {new.id} if any(getattr(old, text) != getattr(new, text) for text in TEXTS) else set()
    return {identity: principle for identity, principle in found.items() if identity not in differ}


def constitution_of(made: Manifest, output: Path) -> Constitution | None:
    """The constitution that the manifest `made` of `output` names, with what was drawn from, if it is still the same one."""
    if "constitution" not in made:
        return None
    words = made.get("command", [])
    names = [word for flag, word in pairwise(words) if flag in ("-c", "--constitution")] or [made["constitution"]["name"]]
    known = constitution.packaged()
    try:
        loaded = constitution.load(*(name if name in known else str(lineage.find(name, output)) for name in names))
    except InputError:
        return None
    same = loaded.sha256 == made["constitution"].get("sha256")
    return loaded.select(made["constitution"].get("principles", []), []) if same else None
