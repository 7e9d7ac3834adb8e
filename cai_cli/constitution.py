"""Constitutions: YAML files of principles, loaded, checked, and drawn from.

A principle has an `id`, optional `tags` and `weight`, and up to three texts: a `critique` request
and a `revision` request (the supervised stage, appendix C.1 of the paper) and a `compare`
sentence (the feedback model's question, appendix C.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cai_cli.errors import InputError
from cai_cli.seeds import uniform

DEFAULT = "default"
TEXTS = ("critique", "revision", "compare")
_PRINCIPLE_FIELDS = {"id", "tags", "weight", *TEXTS}
_FILE_FIELDS = {"name", "version", "notes", "principles"}


@dataclass(frozen=True)
class Principle:
    """One principle: its id and the texts it has (None where it lacks one)."""

    id: str
    critique: str | None = None
    revision: str | None = None
    compare: str | None = None
    tags: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Constitution:
    """A loaded constitution. `sha256` is of the file's bytes; `source` says where it was read."""

    name: str
    version: str
    principles: tuple[Principle, ...]
    source: str
    sha256: str
    notes: str = ""
    by_id: dict[str, Principle] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {p.id: p for p in self.principles})

    def require(self, *texts: str) -> None:
        """InputError unless every principle has each of these texts; says which and where."""
        for principle in self.principles:
            for text in texts:
                if getattr(principle, text) is None:
                    raise InputError(
                        f"{self.source}: the principle '{principle.id}' has no '{text}' text, which this command needs; add one"
                    )

    def draw(self, seed: int, identity: str, round_: int) -> Principle:
        """The principle of a record's round, by weight, from (seed, id, round) alone."""
        total = sum(p.weight for p in self.principles)
        point = uniform(seed, "principle", identity, round_) * total
        for principle in self.principles:
            point -= principle.weight
            if point < 0:
                return principle
        return self.principles[-1]

    def get(self, identity: str) -> Principle:
        """The principle of this id. InputError says that the constitution lacks it."""
        try:
            return self.by_id[identity]
        except KeyError:
            raise InputError(
                f"{self.source}: no principle '{identity}'; use the constitution that the critique was made with"
            ) from None


def packaged() -> dict[str, Path]:
    """The packaged constitutions by name. In a checkout they stand in `constitutions/`."""
    folders = [Path(str(resources.files("cai_cli") / "constitutions")), Path(__file__).parent.parent / "constitutions"]
    for folder in folders:
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def load(name: str) -> Constitution:
    """Load a packaged constitution by name, or any file by path. InputError says what is wrong."""
    known = packaged()
    path = known.get(name, Path(name))
    try:
        data = path.read_bytes()
    except OSError as problem:
        if Path(name).suffix or "/" in name:
            raise InputError(f"{name}: {(problem.strerror or str(problem)).lower()}") from None
        raise InputError(f"no constitution '{name}': give a file, or one of {', '.join(known)}") from None
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as problem:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(problem).split())}") from None
    return parse(content, str(path), sha256(data).hexdigest())


def parse(content: Any, source: str, digest: str) -> Constitution:
    """Check a constitution's content and build it. InputError names the principle at fault."""
    if not isinstance(content, dict) or not isinstance(content.get("principles"), list) or not content["principles"]:
        raise InputError(f"{source}: a constitution is a mapping with a list of 'principles', and not an empty one")
    if unknown := set(content) - _FILE_FIELDS:
        raise InputError(f"{source}: unknown field '{sorted(unknown)[0]}'; known are {', '.join(sorted(_FILE_FIELDS))}")
    principles = [_principle(entry, i, source) for i, entry in enumerate(content["principles"], 1)]
    seen: set[str] = set()
    for principle in principles:
        if principle.id in seen:
            raise InputError(f"{source}: the principle id '{principle.id}' stands twice; give each its own")
        seen.add(principle.id)
    return Constitution(
        name=str(content.get("name", Path(source).stem)),
        version=str(content.get("version", "")),
        notes=str(content.get("notes", "")).strip(),
        principles=tuple(principles),
        source=source,
        sha256=digest,
    )


def _principle(entry: Any, number: int, source: str) -> Principle:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        raise InputError(f"{source}: principle {number} must be a mapping with an 'id'")
    where = f"{source}: the principle '{entry['id']}'"
    if unknown := set(entry) - _PRINCIPLE_FIELDS:
        raise InputError(f"{where} has an unknown field '{sorted(map(str, unknown))[0]}'")
    texts: dict[str, str] = {}
    for name in TEXTS:
        if (text := entry.get(name)) is not None:
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{where}: '{name}' must be a text, and not an empty one")
            texts[name] = text.strip()
    if not texts:
        raise InputError(f"{where} has none of {', '.join(TEXTS)}")
    tags, weight = entry.get("tags", []), entry.get("weight", 1.0)
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InputError(f"{where}: 'tags' must be a list of words")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise InputError(f"{where}: 'weight' must be a positive number")
    return Principle(entry["id"], tags=tuple(tags), weight=float(weight), **texts)
