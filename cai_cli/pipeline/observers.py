"""What sees the records that a step makes: counts them, or decides which are kept."""

from __future__ import annotations

from typing import Protocol

from cai_cli.data.jsonl import Record


class Observer(Protocol):
    """Counts the output records, for the manifest."""

    def count(self, record: Record) -> None:
        """Count a record. They come in output order."""
        ...

    def summary(self) -> Record:
        """What the manifest says about all records together."""
        ...


class Filter(Protocol):
    """Decides in output order which records are skipped. When it is `full`, the run ends."""

    @property
    def full(self) -> bool:
        """Whether it needs no more records."""
        ...

    def reason(self, record: Record) -> str | None:
        """Why a record is skipped; None to keep it."""
        ...

    def summary(self) -> Record:
        """What the manifest says about all records together."""
        ...
