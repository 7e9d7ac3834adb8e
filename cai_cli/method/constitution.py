"""Constitutions: files of principles and few-shot examples, loaded, checked, and drawn from.

A principle has an `id`, optional `tags` and `weight`, and up to three texts: a `critique` request
and a `revision` request (the supervised stage, appendix C.1 of the paper) and a `compare`
sentence (the feedback model's question, appendix C.2). `examples` hold few-shot examples for
critique and revision, for comparison, and for reasoned comparison (appendices D and E). A file may
`include` others. docs/constitutions.md describes the format; `foreign` reads other formats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from cai_cli.data import records, transcripts
from cai_cli.data.records import Messages
from cai_cli.errors import InputError
from cai_cli.method import fields, foreign
from cai_cli.pipeline.seeds import draw_uniform

DEFAULT = "default"
ROUND = "principle"
"""The step in the draw of a round's principle, and of the principle of each few-shot comparison."""
TEXTS = ("critique", "revision", "compare")
_PRINCIPLE_FIELDS = ("id", "tags", "weight", *TEXTS)
_FILE_FIELDS = ("name", "version", "notes", "include", "principles", "examples")
_INCLUDE_FIELDS = ("name", "only", "drop", "weights", "examples")
T = TypeVar("T")


@dataclass(frozen=True)
class Principle:
    """One principle. A text that it does not have is None."""

    id: str
    critique: str | None = None
    """The request to criticise an answer (paper, section 3.1 and appendix C.1)."""
    revision: str | None = None
    """The request to rewrite the answer after the critique (section 3.1 and appendix C.1)."""
    compare: str | None = None
    """The sentence that asks which of two answers is better (section 4.1 and appendix C.2)."""
    tags: tuple[str, ...] = ()
    weight: float = 1.0
    """The chance to be drawn is proportional to it."""


@dataclass(frozen=True)
class Comparison:
    """A few-shot example of a comparison: a prompt with a better and a worse answer (paper, appendix E.2)."""

    prompt: Messages
    """The conversation that both answers follow."""
    better: str
    worse: str


@dataclass(frozen=True)
class Examples:
    """Few-shot examples for each kind of prompt. The sum of two has each example once."""

    critique: tuple[str, ...] = ()
    """Of critique and revision: transcripts, each from `\n\nHuman:` to the end of its revision (appendix E.1)."""
    comparison: tuple[Comparison, ...] = ()
    """Of comparisons (appendix E.2)."""
    reasoned: tuple[str, ...] = ()
    """Of comparisons with reasoning: transcripts with `{}` in the place of the principle (appendix E.3)."""

    def __add__(self, other: Examples) -> Examples:
        return Examples(
            _union(self.critique, other.critique),
            _union(self.comparison, other.comparison),
            _union(self.reasoned, other.reasoned),
        )


def _union(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    return (*first, *(value for value in second if value not in first))


@dataclass(frozen=True)
class Constitution:
    """A loaded constitution: the only human input about harm (paper, section 1.2)."""

    name: str
    version: str
    """The file's `version`; empty if it has none."""
    principles: tuple[Principle, ...]
    source: str
    """The path of its file, or the paths of the files that it was joined from."""
    sha256: str
    """SHA-256 of its file's bytes, or of the hashes of all its files."""
    notes: str = ""
    examples: Examples = Examples()
    by_id: dict[str, Principle] = field(init=False, repr=False, compare=False)
    """The principles by their ids."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {p.id: p for p in self.principles})

    def require(self, *texts: str) -> None:
        """InputError unless every principle has each of these texts; it names the principle and the text."""
        for principle in self.principles:
            for text in texts:
                if getattr(principle, text) is None:
                    raise InputError(
                        f"{self.source}: the principle '{principle.id}' has no '{text}' text, which this command needs; "
                        "add one, or choose other principles with --principles or --tags"
                    )

    def draw(self, seed: int, step: str, identity: str, number: int) -> Principle:
        """A principle drawn by weight (section 3.1) from (seed, step, id, number). `number`: of the round or the example."""
        return _weighted(list(self.principles), draw_uniform(seed, step, identity, number))

    def named(self) -> dict[str, Any]:
        """As a manifest names it: `name`, `version`, `sha256`."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}

    def draw_several(self, seed: int, step: str, identity: str, count: int) -> list[Principle]:
        """`count` different principles, drawn by weight without replacement. The draws depend only on (seed, step, id)."""
        left, drawn = list(self.principles), list[Principle]()
        for i in range(count):
            drawn.append(_weighted(left, draw_uniform(seed, step, identity, i)))
            left.remove(drawn[-1])
        return drawn

    def get(self, identity: str) -> Principle:
        """The principle with this id. InputError if the constitution does not have it."""
        try:
            return self.by_id[identity]
        except KeyError:
            raise InputError(
                f"{self.source}: no principle '{identity}'; use the constitution that the record was made with"
            ) from None

    def select(self, ids: Iterable[str], tags: Iterable[str]) -> Constitution:
        """The constitution with only the principles that have one of these ids or tags; all if neither are given.

        InputError for an id or a tag that no principle has.
        """
        ids, tags = list(ids), list(tags)
        known_tags = sorted({tag for p in self.principles for tag in p.tags})
        for name, known, kind in [(i, self.by_id, "principle") for i in ids] + [(t, known_tags, "tag") for t in tags]:
            if name not in known:
                raise InputError(f"{self.source}: no {kind} '{name}'; there are {', '.join(known) or 'none'}")
        if not ids and not tags:
            return self
        kept = tuple(p for p in self.principles if p.id in ids or set(tags) & set(p.tags))
        return replace(self, principles=kept)


def _weighted(principles: list[Principle], point: float) -> Principle:
    """The principle at a point of [0, 1), which the principles share in proportion to their weights."""
    point *= sum(p.weight for p in principles)
    for principle in principles:
        point -= principle.weight
        if point < 0:
            return principle
    return principles[-1]


def packaged() -> dict[str, Path]:
    """The packaged constitutions by name."""
    return fields.packaged("constitutions")


def load(*names: str, bare: bool = False) -> Constitution:
    """Load packaged constitutions by name, or any files by path, joined into one. InputError says what is wrong.

    With `bare`, a constitution of examples without principles is accepted.
    """
    merged = _merge([_load(name, Path(), ()) for name in names])
    if not merged.principles and not bare:
        raise InputError(f"{merged.source}: holds examples but no principles; add a file with principles by a second -c")
    return merged


def _load(name: str, folder: Path, within: tuple[Path, ...]) -> Constitution:
    """One file with everything it includes. `within`: the files that include it, outermost first."""
    known = packaged()
    path = known.get(name, folder / name)
    if path.resolve() in within:
        raise InputError(f"{path}: includes itself, through {within[-1]}; remove that 'include'")
    path, content, digest = fields.find(name, known, "constitution", folder)
    if path.suffix == ".json":
        content = foreign.content(content, str(path))
    own = parse(content, str(path), digest)
    entries = content.get("include") or []
    entries = entries if isinstance(entries, list) else [entries]
    included = [_include(entry, path, (*within, path.resolve())) for entry in entries]
    return _merge([*included, own], own) if included else own


def _merge(found: list[Constitution], main: Constitution | None = None) -> Constitution:
    """Several constitutions joined into one, which has the name of `main` (by default the first).

    A principle of several files gets the texts of all, and the last weight that is not 1. InputError if two of them have
    different texts of one kind. An example of several files is kept once.
    """
    main = main or found[0]
    if len(found) == 1:
        return main
    principles: dict[str, Principle] = {}
    sources: dict[str, str] = {}
    for part in found:
        for new in part.principles:
            old, other = principles.get(new.id, new), sources.setdefault(new.id, part.source)
            texts: dict[str, Any] = {text: getattr(new, text) or getattr(old, text) for text in TEXTS}
            if any(getattr(old, text) not in (None, texts[text]) for text in TEXTS):
                raise InputError(f"{part.source}: the principle '{new.id}' has a different text in {other}; drop one of the two")
            weight = new.weight if new.weight != 1 else old.weight
            principles[new.id] = replace(old, **texts, weight=weight, tags=tuple(dict.fromkeys(old.tags + new.tags)))
    return replace(
        main,
        principles=tuple(principles.values()),
        source=", ".join(part.source for part in found) if main is found[0] else main.source,
        sha256=sha256("".join(part.sha256 for part in found).encode()).hexdigest(),
        examples=sum((part.examples for part in found), Examples()),
    )


def _include(entry: Any, path: Path, within: tuple[Path, ...]) -> Constitution:
    """The constitution that an item of `include` names: a name, or {name, only, drop, weights, examples}."""
    entry = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InputError(f"{path}: each item of 'include' must be a name, or a mapping with a 'name'")
    fields.only_known(entry, _INCLUDE_FIELDS, f"{path}: 'include' of {entry['name']}")
    found = _load(entry["name"], path.parent, within)
    only, drop, weights = entry.get("only", list(found.by_id)), entry.get("drop", []), entry.get("weights", {})
    listed = isinstance(only, list) and isinstance(drop, list) and all(isinstance(i, str) for i in (*only, *drop))
    if not listed or not isinstance(weights, dict):
        raise InputError(f"{path}: 'only' and 'drop' must be lists of principle ids, 'weights' a mapping of ids to numbers")
    for identity in (*only, *drop, *weights):
        if identity not in found.by_id:
            raise InputError(f"{path}: {entry['name']} has no principle '{identity}'; it has {', '.join(found.by_id)}")
    kept = [
        replace(p, weight=fields.weight(weights[p.id], f"{path}: the principle '{p.id}'")) if p.id in weights else p
        for p in found.principles
        if p.id in only and p.id not in drop
    ]
    return replace(found, principles=tuple(kept), examples=found.examples if entry.get("examples", True) else Examples())


def parse(content: Any, source: str, digest: str) -> Constitution:
    """Check a constitution's own content, without what it includes. InputError names the bad principle or field."""
    if not isinstance(content, dict) or not any(content.get(key) for key in ("principles", "include", "examples")):
        raise InputError(f"{source}: a constitution must be a mapping with a non-empty list of 'principles'")
    fields.only_known(content, _FILE_FIELDS, source)
    entries = content.get("principles") or []
    if not isinstance(entries, list):
        raise InputError(f"{source}: 'principles' must be a list")
    principles = [_principle(entry, i, source) for i, entry in enumerate(entries, 1)]
    seen: set[str] = set()
    for principle in principles:
        if principle.id in seen:
            raise InputError(f"{source}: duplicate principle id '{principle.id}'; give each principle its own")
        seen.add(principle.id)
    return Constitution(
        name=str(content.get("name") or Path(source).stem),
        version=str(content["version"]) if content.get("version") is not None else "",
        notes=str(content.get("notes") or "").strip(),
        principles=tuple(principles),
        source=source,
        sha256=digest,
        examples=_examples(content.get("examples") or {}, source),
    )


def _principle(entry: Any, number: int, source: str) -> Principle:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        raise InputError(f"{source}: principle {number} must be a mapping with a non-empty string 'id'")
    where = f"{source}: the principle '{entry['id']}'"
    fields.only_known(entry, _PRINCIPLE_FIELDS, where)
    texts = {name: fields.text(entry[name], f"{where}: '{name}'") for name in TEXTS if entry.get(name) is not None}
    if not texts:
        raise InputError(f"{where} has no text; give it one of {', '.join(TEXTS)}")
    tags = entry.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InputError(f"{where}: 'tags' must be a list of strings")
    return Principle(entry["id"], tags=tuple(tags), weight=fields.weight(entry.get("weight", 1.0), where), **texts)


def _examples(entry: Any, source: str) -> Examples:
    """The `examples` of a file, checked; the fields of `Examples` describe the kinds."""
    if not isinstance(entry, dict):
        raise InputError(f"{source}: 'examples' must be a mapping of critique, comparison and reasoned to lists")
    fields.only_known(entry, ("critique", "comparison", "reasoned"), f"{source}: 'examples'")

    def each(kind: str) -> list[tuple[Any, str]]:
        values = entry.get(kind) or []
        if not isinstance(values, list):
            raise InputError(f"{source}: the examples of '{kind}' must be a list")
        return [(value, f"{source}: example {i} of '{kind}'") for i, value in enumerate(values, 1)]

    return Examples(
        tuple(_critique_example(value, where) for value, where in each("critique")),
        tuple(_comparison_example(value, where) for value, where in each("comparison")),
        tuple(_reasoned_example(value, where) for value, where in each("reasoned")),
    )


def _critique_example(value: Any, where: str) -> str:
    fields.text(value, where)
    try:
        return transcripts.example(value)
    except ValueError as problem:
        raise InputError(f"{where}: {problem}") from None


def _comparison_example(value: Any, where: str) -> Comparison:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a mapping of prompt, better and worse")
    fields.only_known(value, ("prompt", "better", "worse"), where)
    if error := records.prompt_error(value):
        raise InputError(f"{where}: {error}")
    better, worse = (fields.text(value.get(side), f"{where}: '{side}'") for side in ("better", "worse"))
    return Comparison(records.as_messages(value["prompt"]), better, worse)


def _reasoned_example(value: Any, where: str) -> str:
    text = fields.text(value, where)
    if text.count(transcripts.PRINCIPLE_PLACEHOLDER) != 1:
        raise InputError(f"{where} must hold '{{}}' exactly once, in the place of the principle")
    try:
        transcripts.reasoned(text)
    except ValueError as problem:
        raise InputError(f"{where}: {problem}") from None
    return f"\n\n{text}"
