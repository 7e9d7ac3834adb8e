"""Records as a log that the viewer of Inspect (inspect_ai) opens: answers with their grades and scores, and comparisons.

An answer is a sample with its conversation, the answer as its output, and a score per criterion. A comparison is a sample with
two `choices`; its score is the probability of the first. The other fields of a record are the sample's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

from cai_cli.data.jsonl import Record
from cai_cli.data.preferences import sides
from cai_cli.data.records import (
    Grade,
    Messages,
    as_messages,
    current_answer,
    current_score,
    digest,
    pair_error,
    preference_error,
    rounds_error,
    shape_error,
)
from cai_cli.data.shapes import type_error
from cai_cli.evaluation.intervals import mean_interval

_TEXTS = {"id", "prompt", "response", "responses", "chosen", "rejected"}
"""Fields that a sample shows elsewhere than in its metadata."""


class _Judged(TypedDict):
    """What `cai eval choice` adds."""

    p_correct: float


class _Choice(TypedDict):
    p_first: float


class _Compared(TypedDict):
    """What `cai eval compare` adds."""

    models: list[str]
    comparisons: dict[str, _Choice]


def check(record: Record) -> str | None:
    """Why a record gives no sample, or None."""
    if "chosen" in record:
        try:
            error = preference_error(record) or (sides(record).answers() and None)
        except ValueError as problem:
            return str(problem)
        return error or type_error(record.get("judged", {"p_correct": 0.5}), _Judged, "judged")
    several = "responses" in record
    if error := (pair_error(record) if several else rounds_error(record)) or shape_error(record):
        return error
    found = list(record.get("grades", {}).values())
    found += [record["scores"]["responses"]] if several and "responses" in record.get("scores", {}) else []
    if any(isinstance(each, list) != several or (several and len(each) != len(record["responses"])) for each in found):
        return "'grades' and 'scores' must have an entry for each answer"
    if "comparisons" not in record:
        return None
    if not type_error(record, _Compared, "record") and len(record["models"]) == len(record["responses"]) == 2:
        return None
    return "'models', 'responses' and 'comparisons' must be as `cai eval compare` writes them"


def samples(record: Record, model: str) -> Iterator[Record]:
    """The samples of a record that `check` accepts. `model`: whose answers they are, if the record does not say it."""
    grades, scores = record.get("grades") or {}, record.get("scores") or {}
    if "chosen" in record:
        found = sides(record)
        name = "p_correct" if "judged" in record else "p_chosen"
        p = record.get("judged", record).get(name, 1.0)
        yield _comparison({**record, "prompt": found.prompt}, found.answers(), ("chosen", "rejected"), {name: p}, "A")
    elif "comparisons" in record:
        values = {name: label["p_first"] for name, label in record["comparisons"].items()}
        yield _comparison(record, record["responses"], record["models"], values, "")
    elif "responses" in record:
        for i, text in enumerate(record["responses"]):
            pm = scores["responses"][i] if "responses" in scores else None
            yield _answer(record, f"{record['id']}/{i}", text, model, {name: found[i] for name, found in grades.items()}, pm)
    else:
        yield _answer(record, record["id"], current_answer(record), model, grades, current_score(record))


def _answer(record: Record, identity: str, text: str, model: str, grades: dict[str, Grade], pm: float | None) -> Record:
    scores = {name: _score(next(iter(grade.values())), grade) for name, grade in grades.items() if grade}
    if pm is not None:
        scores["score"] = {"value": pm}
    reply = {"role": "assistant", "content": text, "model": model, "source": "generate"}
    output = {"model": model, "choices": [{"message": reply, "stop_reason": "stop"}], "completion": text}
    return {**_sample(record, identity, scores), "messages": [*_prompt(record), reply], "output": output}


def _comparison(record: Record, texts: Sequence[str], names: Sequence[str], values: dict[str, float], target: str) -> Record:
    scores = {name: _score(p, {f"A, {names[0]}": p, f"B, {names[1]}": 1 - p}) for name, p in values.items()}
    replies = [{"role": "assistant", "content": text, "model": name} for name, text in zip(names, texts, strict=True)]
    messages = [*_prompt(record), *replies]
    return {**_sample(record, record["id"], scores), "choices": list(texts), "target": target, "messages": messages}


def _score(value: float, classes: Grade) -> Record:
    """A score, with the most probable of the classes, and the probabilities of all."""
    best = max(classes, key=lambda name: classes[name])
    return {"value": value, "answer": best, "explanation": "\n\n".join(f"{name}: {p:.3f}" for name, p in classes.items())}


def _prompt(record: Record) -> Messages:
    return [{"role": message["role"], "content": message["content"]} for message in as_messages(record["prompt"])]


def _sample(record: Record, identity: str, scores: Record) -> Record:
    more = {name: value for name, value in record.items() if name not in _TEXTS}
    return {"id": identity, "epoch": 1, "input": _prompt(record), "target": "", "scores": scores, "metadata": more}


def log(found: list[Record], name: str, model: str, created: str, about: Record) -> Record:
    """The log of some samples: `name` of their file, `created` as an ISO 8601 time, `about` for its metadata."""
    values: dict[str, list[float]] = {}
    for each in found:
        for criterion, score in each["scores"].items():
            values.setdefault(criterion, []).append(score["value"])
    results = []
    for criterion, numbers in values.items():
        three = zip(("mean", "95% low", "95% high"), mean_interval(numbers), strict=True)
        metrics = {metric: {"name": metric, "value": value} for metric, value in three}
        results.append({"name": criterion, "scorer": criterion, "scored_samples": len(numbers), "metrics": metrics})
    identity = digest([created, name, [each["id"] for each in found]])
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": identity, "run_id": identity, "task_id": identity, "created": created, "task": name, "model": model,
            "dataset": {"name": name, "samples": len(found)}, "config": {}, "metadata": about,
        },
        "plan": {"name": "plan", "steps": []},
        "results": {"total_samples": len(found), "completed_samples": len(found), "scores": results},
        "stats": {"started_at": created, "completed_at": created},
        "samples": found,
    }  # fmt: skip
