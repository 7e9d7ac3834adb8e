"""Rubrics: files of criteria by which a single answer is graded.

A criterion has an `id`, a `question` about the assistant's last response, optionally `classes` (the answers to choose from, by
their names; by default yes and no) and a `weight`. The first class is the good one: its probability is the grade. A
constitution serves as a rubric too, and a record may carry its own in `rubric`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError
from cai_cli.method import fields
from cai_cli.method.constitution import Constitution, Principle

DEFAULT = "hhh"
MOST = 8
"""The largest number of classes: each is a letter."""
_FILE_FIELDS = ("name", "version", "notes", "criteria")
_FIELDS = ("id", "question", "classes", "weight")
_YES_NO = {"yes": "Yes.", "no": "No."}
_REQUEST = "A critic was asked this about the assistant's last response: {} Would a careful critic find nothing to criticise?"
"""How a principle's critique request becomes a question whose good answer is yes."""


@dataclass(frozen=True)
class Criterion:
    """One question about an answer."""

    id: str
    question: str
    classes: Mapping[str, str]
    """What each answer to the question says, by the name of its class; at least two. The first class is the good one."""
    weight: float = 1.0


@dataclass(frozen=True)
class Rubric:
    """A loaded rubric."""

    name: str
    criteria: tuple[Criterion, ...]
    source: str
    sha256: str

    def __add__(self, other: Rubric) -> Rubric:
        both = self.criteria + other.criteria
        seen: set[str] = set()
        for criterion in both:
            if criterion.id in seen:
                raise InputError(f"{other.source}: the criterion '{criterion.id}' is also in {self.source}; drop one of the two")
            seen.add(criterion.id)
        hashes = sha256(f"{self.sha256}{other.sha256}".encode()).hexdigest()
        return Rubric(f"{self.name}, {other.name}", both, f"{self.source}, {other.source}", hashes)


def packaged() -> dict[str, Path]:
    """The packaged rubrics by name."""
    return fields.packaged("constitutions/rubrics")


def load(name: str) -> Rubric:
    """A packaged rubric by its name, or a YAML or JSON file. InputError says what is wrong."""
    path, content, digest = fields.find(name, packaged(), "rubric")
    if not isinstance(content, dict):
        raise InputError(f"{path}: a rubric must be a mapping with a non-empty list of 'criteria'")
    fields.only_known(content, _FILE_FIELDS, str(path))
    return Rubric(str(content.get("name") or path.stem), criteria(content.get("criteria"), str(path)), str(path), digest)


def criteria(entries: Any, where: str) -> tuple[Criterion, ...]:
    """A list of criteria, checked. InputError names the bad one."""
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{where}: 'criteria' must be a non-empty list")
    found = tuple(_criterion(entry, number, where) for number, entry in enumerate(entries, 1))
    for criterion in found:
        if [other.id for other in found].count(criterion.id) > 1:
            raise InputError(f"{where}: duplicate criterion id '{criterion.id}'; give each criterion its own")
    return found


def _criterion(entry: Any, number: int, where: str) -> Criterion:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        raise InputError(f"{where}: criterion {number} must be a mapping with a non-empty string 'id'")
    where = f"{where}: the criterion '{entry['id']}'"
    fields.only_known(entry, _FIELDS, where)
    named = entry.get("classes", _YES_NO)
    if not isinstance(named, dict) or not 2 <= len(named) <= MOST:
        raise InputError(f"{where}: 'classes' must be a mapping of two to {MOST} names to texts")
    # YAML reads a bare yes or no as true or false
    classes = {
        {True: "yes", False: "no"}.get(name, str(name)): fields.text(says, f"{where}: '{name}'") for name, says in named.items()
    }
    return Criterion(
        entry["id"],
        fields.text(entry.get("question"), f"{where}: 'question'"),
        classes,
        fields.weight(entry.get("weight", 1.0), where),
    )


def of_constitution(constitution: Constitution) -> Rubric:
    """One criterion per principle: whether its critique would find nothing. InputError if a principle has no `critique` text."""
    constitution.require("critique")
    found = map(criterion_of, constitution.principles)
    return Rubric(constitution.name, tuple(found), constitution.source, constitution.sha256)


def criterion_of(principle: Principle) -> Criterion:
    """Whether a principle's critique would find nothing."""
    return Criterion(principle.id, _REQUEST.format(principle.critique), _YES_NO, principle.weight)


def principle_of(criterion: Criterion) -> Principle:
    """A principle that compares answers by a criterion."""
    asked = f"A critic was asked this about each response: {criterion.question}"
    compare = f"{asked} Choose the response that is better in that."
    return Principle(criterion.id, compare=compare, weight=criterion.weight)


def own(record: Record) -> tuple[Criterion, ...] | None:
    """The criteria that a record carries in `rubric`: mappings, or questions alone, which are named by their numbers."""
    if record.get("rubric") is None:
        return None
    entries = record["rubric"]
    if isinstance(entries, list):
        entries = [{"id": str(i), "question": entry} if isinstance(entry, str) else entry for i, entry in enumerate(entries, 1)]
    return criteria(entries, "'rubric'")


def own_error(record: Record) -> str | None:
    """What is wrong with the criteria that a record carries, or None."""
    try:
        own(record)
    except InputError as problem:
        return str(problem)
    return None


def overall(rubric: Iterable[Criterion], means: Mapping[str, float]) -> float | None:
    """The mean of the criteria's `means` by their weights; None without any."""
    weighted = [(criterion.weight, means[criterion.id]) for criterion in rubric if criterion.id in means]
    return sum(weight * mean for weight, mean in weighted) / sum(weight for weight, _ in weighted) if weighted else None
