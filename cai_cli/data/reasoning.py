"""Reasoning is not an answer: it is taken out of a text, and kept beside it.

A model that reasons writes its reasoning first, between two tags: `<think>` and `</think>`, or those of its own template.
Its answer follows. The reasoning goes into the field `reasoning`:

    response            a string
    responses           a list, with null for an answer without reasoning
    chosen, rejected    an object, {"chosen": ..., "rejected": ...}
    rounds[i]           an object, {"critique": ..., "revision": ...}, in the round
    messages            a string: that of the last message
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

OPEN, CLOSE = "<think>", "</think>"
TAGS = [(OPEN, CLOSE)]
_LONE_CLOSE = re.compile(r"(?s)(?:(.*?)\n)?[^\S\n]*</think>[^\S\n]*(?:\n|$)")
"""Reasoning whose opening tag is in the prompt: only the closing tag is in the text, on a line of its own."""
KEYS = ("reasoning_content", "reasoning", "thinking")
"""The keys under which a chat message may hold its reasoning: DeepSeek's and Qwen's, OpenRouter's and vLLM's, Ollama's."""


class Parts(NamedTuple):
    """A text that a model wrote, divided."""

    answer: str
    reasoning: str | None = None
    """None if it did not reason."""
    cut: bool = False
    """Whether the text ended inside the reasoning: there is no answer then."""


def split(text: str, tags: Sequence[tuple[str, str]], opened: bool = False) -> Parts:
    """A text's answer and reasoning. `tags`: the (opening, closing) pairs that may enclose it.

    `opened`: the prompt ends with the first pair's opening tag, so that the text begins inside the reasoning.
    """
    text = text.strip()
    for number, (start, end) in enumerate(tags):
        if text.startswith(start) or (opened and number == 0):
            reasoning, closed, answer = text.removeprefix(start).partition(end)
            return Parts(answer.strip(), reasoning.strip() or None, cut=not closed)
    return Parts(text)


def inline(text: str) -> Parts:
    """Splits a text from somebody else's file, where the prompt may have held the opening tag.

    A text that only mentions the tags is an answer: reasoning is at the beginning, and if there is no opening tag, the closing
    tag is alone on its line.
    """
    if CLOSE in text and OPEN not in text and (found := _LONE_CLOSE.match(text)):
        return Parts(text[found.end() :].strip(), (found[1] or "").strip() or None)
    return split(text, TAGS) if text.lstrip().startswith(OPEN) else Parts(text)


def join(answer: str, reasoning: str | None) -> str:
    """An answer with its reasoning in front of it, as plain text."""
    return f"{OPEN}\n{reasoning}\n{CLOSE}\n\n{answer}" if reasoning else answer


def of_message(message: Any) -> str | None:
    """The reasoning that a chat message holds under one of `KEYS`."""
    return next((message[key] for key in KEYS if isinstance(message.get(key), str) and message[key].strip()), None)


def separate(record: dict[str, Any]) -> None:
    """Move reasoning that a record's answers begin with into its field `reasoning`, in place. Bad fields are left as they are."""
    for field in ("response", "responses"):
        _separate_answers(record, field)
    for side in ("chosen", "rejected"):
        if reason := _last(record, side):
            found = record.setdefault("reasoning", {})
            if isinstance(found, dict):
                found[side] = reason
    for field in ("messages", "completion"):
        if reason := _last(record, field):
            record.setdefault("reasoning", reason)


def _separate_answers(record: dict[str, Any], field: str) -> None:
    """`separate` for `response` or `responses`. An answer that ended inside its reasoning is marked in the meta."""
    one, value = field == "response", record.get(field)
    texts = [value] if one else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return
    each = [inline(text) for text in texts]
    if not any(parts.reasoning or parts.cut for parts in each):
        return
    answers, reasons = [parts.answer for parts in each], [parts.reasoning for parts in each]
    record[field] = answers[0] if one else answers
    record.setdefault("reasoning", reasons[0] if one else reasons)
    meta = record.setdefault("meta", {}) if any(parts.cut for parts in each) else None
    if isinstance(meta, dict):
        if meta.get(field) is None:
            meta[field] = {} if one else [{} for _ in each]
        entries = [meta[field]] if one else meta[field] if isinstance(meta[field], list) else []
        for parts, entry in zip(each, entries, strict=False):
            if parts.cut and isinstance(entry, dict):
                entry["reasoning"] = "cut"


def _last(record: dict[str, Any], field: str) -> str | None:
    """The reasoning of a side: a string, or messages that end with the assistant's. Leaves only the answer in the record."""
    value = record.get(field)
    if isinstance(value, str) and "prompt" in record:  # without a prompt it is a whole conversation as plain text
        parts = inline(value)
        record[field] = parts.answer
        return parts.reasoning
    if not isinstance(value, list) or not value or not isinstance(last := value[-1], dict):
        return None
    if last.get("role") != "assistant" or not isinstance(last.get("content"), str):
        return None
    parts, kept = inline(last["content"]), of_message(last)
    if kept or parts.reasoning or parts.cut:
        bare = {key: text for key, text in last.items() if key not in KEYS}
        record[field] = [*value[:-1], {**bare, "content": parts.answer}]
    return kept or parts.reasoning


def of_side(record: dict[str, Any], side: str, answer: str) -> str | None:
    """The reasoning before the answer of a preference's side: under its side, or that of the same text in `responses`."""
    kept = record.get("reasoning")
    if isinstance(kept, list):
        pairs = zip(record.get("responses") or [], of_responses(record), strict=False)
        return next((reason for text, reason in pairs if text == answer and reason), None)
    return _text(kept.get(side)) if isinstance(kept, dict) else None


def of_responses(record: dict[str, Any]) -> list[str | None]:
    """The reasoning before each of a record's `responses`."""
    kept, count = record.get("reasoning"), len(record.get("responses") or [])
    return [*map(_text, kept if isinstance(kept, list) else ()), *[None] * count][:count]


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """The record with each answer's reasoning in front of it as text, for --show-reasoning."""
    found, kept = dict(record), record.get("reasoning")
    if isinstance(kept, str) and "response" in record:
        found["response"] = join(record["response"], kept)
    if isinstance(kept, list) and "responses" in record:
        found["responses"] = [join(*pair) for pair in zip(record["responses"], of_responses(record), strict=True)]
    for side in ("chosen", "rejected"):
        if side in record:
            value = record[side]
            text = value if isinstance(value, str) else value[-1]["content"]
            whole = join(text, of_side(record, side, text))
            found[side] = whole if isinstance(value, str) else [*value[:-1], {**value[-1], "content": whole}]
    if "rounds" in record:
        found["rounds"] = [_shown_round(entry) for entry in record["rounds"] or []]
    return found


def of_revision(entry: dict[str, Any]) -> str | None:
    """The reasoning before a round's revision."""
    kept = entry.get("reasoning")
    return _text(kept.get("revision")) if isinstance(kept, dict) else None


def _text(value: object) -> str | None:
    """A value if it is a text: other tools keep other things under the name."""
    return value if isinstance(value, str) else None


def _shown_round(entry: dict[str, Any]) -> dict[str, Any]:
    reason = of_revision(entry)
    return {**entry, "revision": join(entry["revision"], reason)} if reason and "revision" in entry else entry
