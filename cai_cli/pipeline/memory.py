"""What stands in for the files of a command that a program calls. It imports little, because every command imports it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]


@dataclass
class Memory:
    """What a step reads and writes in memory."""

    records: list[Record]
    engines: dict[str, Any]
    """The loaded models, by what decides their answers. A step that needs another one adds it."""
    made: list[Record] = field(default_factory=list)
    """The output records, in the order of the input."""
    skipped: list[Record] = field(default_factory=list)
    """A mapping with `error` and `record` for each record that the step could not process."""


current: ContextVar[Memory | None] = ContextVar("memory", default=None)
"""If it is set, a program calls the command: its step runs in memory (`inline`), and its errors are raised."""
