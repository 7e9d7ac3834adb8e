"""The records of a run for its reader: all that the run made from a prompt, together.

A record only grows, so what a later step wrote holds what the earlier steps wrote. Only the last form of a record is shown,
with the files and lines that it came through, back to the line of its prompt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cai_cli.data import jsonl
from cai_cli.data.ids import Ids
from cai_cli.data.jsonl import Record, as_object, item
from cai_cli.data.records import Label, Messages, as_messages, current_answer, digest, label_of, shape_error, take_in
from cai_cli.data.shapes import type_error
from cai_cli.errors import InputError
from cai_cli.evaluation.refusal import best, by_prefix
from cai_cli.pipeline import lineage
from cai_cli.pipeline.manifest import Manifest
from cai_cli.report.run import Step
from cai_cli.report.sources import ids_before, inputs_first, origin

LIMIT = 10_000
"""The most prompts that a page holds; of more, so many are drawn."""
_GROWS = {"sample", "critique", "revise", "label", "score", "grade", "combine", "eval choice"}
"""The steps whose output holds all of their input's record."""
_SHOWN = {"response", "responses", "chosen", "rejected", "rounds", "completion", "messages", "comparisons"}
_LOGS = ("samples.jsonl",)
"""Files of records in a model's directory."""


@dataclass
class Found:
    """A record in a file."""

    path: Path
    line: int
    record: Record


Prompt = tuple[str, str]
"""What all that is shown together has in common: the id of the prompt, and the digest of the conversation's first message."""


def _first_words(record: Record) -> str:
    conversation = record.get("prompt") or record.get("messages") or record.get("chosen") or ""
    return digest(as_messages(conversation)[0]["content"]) if conversation else ""


@dataclass
class Reader:
    """What the page's record reader holds."""

    files: list[Record] = field(default_factory=list)
    """`name`, `step` and `model` of each file; records name them by their place here."""
    records: list[Record] = field(default_factory=list)
    """`id`, `kind`, `prompt` and `entries` of each prompt. An entry: `f` (file), `l` (line), `id`, `r` (record), `from` (the
    files and lines that it came through, nearest first), `x` (see `features`)."""
    total: int = 0
    """How many prompts the run has; more than `records` if these are drawn."""


@dataclass
class Source:
    """A file that records are in or came through."""

    path: Path
    name: str
    """Its path from the run's folder; of a file from elsewhere, as it was typed."""
    made: Manifest
    inputs: list[Path]
    spots: dict[str, Found] = field(default_factory=dict)
    """The kept records by their id."""


def collect(steps: list[Step], limit: int = LIMIT) -> Reader:
    """The records of a run's finished files. InputError for a bad line."""
    files = {_real(path): (name, made) for path, name, made in _files(steps)}
    kept, total = _drawn(files, limit)
    every = [found for group in kept.values() for found in group]
    wanted = {name for found in every for name in (*ids_before(found.record), origin(found.record))}
    sources: dict[Path, Source] = {}
    queue = [(path, *about) for path, about in files.items()]
    for path, name, made in queue:  # it grows while it is read
        if path in sources or not path.is_file():
            continue
        inputs = [(typed, _real(place)) for typed, place in lineage.inputs(made, path)]
        sources[path] = Source(path, name, made, [place for _, place in inputs])
        queue += [(place, typed, lineage.beside(place)) for typed, place in inputs]
        if path not in files:
            sources[path].spots = {one.record["id"]: one for one in _given(path) if one.record["id"] in wanted}
    for found in every:
        sources[found.path].spots.setdefault(found.record["id"], found)
    return _reader(kept, total, sources)


def answer_files(steps: list[Step]) -> Iterator[tuple[str, Path]]:
    """(name, path) of the files of answers, without those whose records are all in a later file."""
    grown = {
        _real(path): step.counts.get("records_in", 0)
        for step in steps
        if step.finished and step.kind in _GROWS - {"sample"}
        for _, path in lineage.inputs(step.made, step.path)
    }
    for step in steps:
        many = grown.get(_real(step.path), 0)
        if step.finished and step.kind in _GROWS and step.path.is_file() and many < step.counts.get("records_out", 1):
            yield step.name, step.path


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _files(steps: list[Step]) -> Iterator[tuple[Path, str, Manifest]]:
    """(path, name, manifest) of the run's files that may hold records."""
    for step in steps:
        if not step.finished or step.kind in ("eval", "eval figures"):
            continue
        places = [(step.path / log, f"{step.name}/{log}") for log in _LOGS] if step.path.is_dir() else [(step.path, step.name)]
        for path, name in places:
            if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")):
                yield path, name, step.made


def _records(path: Path) -> Iterator[Found]:
    """The records of a file, each with an id. Those of a log may have an id several times."""
    ids = Ids()
    for line in jsonl.read_lines(str(path)):
        error = line.error
        if line.record is not None:
            take_in(line.record)
            if path.name not in _LOGS:
                error = shape_error(line.record) or ids.error(line.record, line.number)
        if error or line.record is None:
            raise jsonl.bad_line(str(path), line.number, error or "")
        if "id" in line.record:
            yield Found(path, line.number, line.record)


def _given(path: Path) -> Iterator[Found]:
    """The records of a file that the run was given. It may be of another form, or hold lines that a step skipped."""
    ids = Ids()
    with suppress(InputError):
        for line in jsonl.read_lines(str(path)):
            if line.record is not None:
                take_in(line.record)
                if ids.error(line.record, line.number) is None:
                    yield Found(path, line.number, line.record)


def _drawn(files: Iterable[Path], limit: int) -> tuple[dict[Prompt, list[Found]], int]:
    """The records of at most `limit` prompts, by the prompt's id, and the number of all prompts.

    Of more, those with the lowest hashes are kept. So any file holds the same ones, and memory holds at most two times as many.
    """
    kept: dict[Prompt, list[Found]] = {}
    every: set[int] = set()
    bound = 1 << 64
    for path in files:
        for found in _records(path):
            name = origin(found.record), _first_words(found.record)
            key = int(digest(name), 16)
            every.add(key)
            if key < bound:
                kept.setdefault(name, []).append(found)
                if len(kept) > 2 * limit:
                    kept, bound = _lowest(kept, limit)
    return (_lowest(kept, limit)[0] if len(kept) > limit else kept), len(every)


def _lowest(kept: dict[Prompt, list[Found]], limit: int) -> tuple[dict[Prompt, list[Found]], int]:
    keys = {name: int(digest(name), 16) for name in kept}
    bound = sorted(keys.values())[limit]
    return {name: group for name, group in kept.items() if keys[name] < bound}, bound


def _reader(kept: dict[Prompt, list[Found]], total: int, sources: dict[Path, Source]) -> Reader:
    reader = Reader(total=total)
    numbers = {path: i for i, path in enumerate(sources)}
    for source in sources.values():
        model = (source.made.get("model") or {}).get("name", "")
        reader.files.append({"name": source.name, "step": source.made.get("step", ""), "model": model})
    for (identity, _), group in kept.items():
        ways = [(found, list(_way(found, sources))) for found in group]
        inner = {(one.path, one.line) for found, way in ways if _grown(found, sources[found.path]) for one in way}
        shown = [(f, way) for f, way in ways if f.record.keys() & _SHOWN and (f.path, f.line) not in inner]
        prompt = next((as_messages(found.record["prompt"]) for found, _ in shown if "prompt" in found.record), None)
        kind = next((found.record["kind"] for found in group if "kind" in found.record), None)
        if shown:
            entries = [_entry(found, way, prompt, numbers, sources) for found, way in shown]
            reader.records.append({"id": identity, "kind": kind, "prompt": prompt, "entries": entries})
    return reader


def _grown(found: Found, source: Source) -> bool:
    """Whether a record holds all of the one that it was made from."""
    return source.made.get("step") in _GROWS and found.path.name not in _LOGS and "previous" not in found.record


def _way(found: Found, sources: dict[Path, Source]) -> Iterator[Found]:
    """The records that a record came through, nearest first."""
    seen = {found.path}
    while True:
        ids, before = ids_before(found.record), None
        for path in inputs_first(found.record, sources[found.path].inputs):
            if path in sources and path not in seen:
                before = before or next((one for name in ids if (one := sources[path].spots.get(name))), None)
        if before is None:
            return
        seen.add(before.path)
        yield before
        found = before


def _entry(
    found: Found, way: list[Found], prompt: Messages | None, numbers: dict[Path, int], sources: dict[Path, Source]
) -> Record:
    """An entry, with the record without the prompt if that is the one that is shown above all entries."""
    record = {name: value for name, value in found.record.items() if name not in ("id", "prompt", "kind")}
    if "prompt" in found.record and as_messages(found.record["prompt"]) != prompt:
        record["prompt"] = as_messages(found.record["prompt"])
    try:
        more = features(found.record)
    except (KeyError, TypeError, AttributeError) as problem:
        raise jsonl.bad_line(str(found.path), found.line, f"not a record in cai's form ({problem!r})") from None
    made = (sources[one.path].made for one in (found, *way))
    if "score" in more and (scorer := next((m["model"] for m in made if m.get("step") == "score" and "model" in m), None)):
        more["scorer"] = scorer.get("sha256")
    came = [[numbers[one.path], one.line] for one in way]
    return {"f": numbers[found.path], "l": found.line, "id": found.record["id"], "r": record, "from": came, "x": more}


def features(record: Record) -> Record:
    """What the filters and orders of the page read: each only if the record has it."""
    rounds, scores = record.get("rounds") or [], record.get("scores") or {}
    judged = [record.get("label"), record.get("judged"), *as_object(record.get("comparisons")).values()]
    labels = [one for one in judged if is_label(one)]
    last_score = scores.get("response", scores.get("chosen", item(scores.get("responses"), 0)))
    orders = [one["orders"] for one in labels if one["orders"].keys() == {"ab", "ba"}]
    found: Record = {
        "principles": [*(one.get("principle") for one in rounds), *(name for one in labels for name in one["principles"])],
        "flags": [flag for one in rounds for flag in one.get("flags", [])],
        "refusal": refusal(record),
        "grades": {
            f"{criterion}: {kind}": max(one.get(kind, 0) for one in several)
            for criterion, grade in (record.get("grades") or {}).items()
            if (several := grade if isinstance(grade, list) else [grade])
            for kind in several[0]
        },
        "score": (scores.get("rounds") or [last_score])[-1],
        "first": scores.get("response") if scores.get("rounds") else None,
        "certainty": max((abs(one["p_first"] - 0.5) for one in labels), default=None),
        "position": max((abs(one["ab"] - one["ba"]) for one in orders), default=None),
        "length": max(map(len, answers(record)), default=None),
    }
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def is_label(value: object) -> bool:
    """Whether a value is what a judge found about two answers."""
    return label_of({"label": value}) is not None and type_error(value, Label, "label") is None


def answers(record: Record) -> list[str]:
    """A record's answers as they are now: the last revision, the response, or the answers that are compared."""
    if "response" in record:
        return [current_answer(record)]
    sides = [as_messages(record[side])[-1]["content"] for side in ("chosen", "rejected") if side in record]
    return record.get("responses") or sides


def refusal(record: Record) -> list[str]:
    """The refusal classes of a record's answers: by its grades, and whether the first words of one refuse."""
    grade, texts = (record.get("grades") or {}).get("refusal") or [], answers(record)
    graded = [best(one) for one in (grade if isinstance(grade, list) else [grade])]
    words = "first words refuse" if any(map(by_prefix, texts)) else "first words comply"
    return [*dict.fromkeys(filter(None, graded)), *([words] if texts else [])]
