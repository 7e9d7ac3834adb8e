"""Requests for an engine, as the runner feeds them, and its results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cai_cli.engines.base import Feed, Key, Request, Result


def feed(entries: list[Request], slow: bool = False) -> Feed:
    """The requests under their numbers; with `slow` each comes alone, with pauses between."""
    for i, entry in enumerate(entries):
        yield i, entry
        if slow:
            yield None
            yield None


def by_number(results: Iterator[tuple[Key, Result]]) -> list[Any]:
    """The results in the order of their requests. Any: their type depends on the requests."""
    got: dict[Any, Result] = dict(results)
    return [got[i] for i in sorted(got)]
