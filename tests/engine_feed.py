"""Requests for an engine, as the runner feeds them, and its results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from cai_cli.engines.base import Feed, Key, Request

T = TypeVar("T")


def feed(entries: list[Request], slow: bool = False) -> Feed:
    """The requests under their numbers; with `slow` each comes alone, with pauses between."""
    for i, entry in enumerate(entries):
        yield i, entry
        if slow:
            yield None
            yield None


def by_number(results: Iterator[tuple[Key, T]]) -> list[T]:
    """The results in the order of their requests."""
    got: dict[Any, T] = dict(results)
    return [got[i] for i in sorted(got)]
