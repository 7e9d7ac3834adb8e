"""Runs of the stage runner that are interrupted after some records, and how many requests a later run asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cai_cli.engines.transformers import TransformersEngine
from cai_cli.pipeline.outputs import FileOutput


def interrupt_after(patch: pytest.MonkeyPatch, records: int) -> None:
    """Interrupt the next runs of this process, as ctrl-C would, once they have finished this many records."""
    write = FileOutput.write

    def interrupted(self: FileOutput, *entry: Any) -> None:
        write(self, *entry)
        if self.counts.records_in >= records:
            raise KeyboardInterrupt

    patch.setattr(FileOutput, "write", interrupted)


def count_requests(patch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by the kind of each request that the transformers engine gets."""
    asked: list[str] = []

    run = TransformersEngine.run

    def counted(self: TransformersEngine, feed: Any) -> Any:
        def noted() -> Iterator[Any]:
            for entry in feed:
                if entry is not None:
                    asked.append(entry[1].kind)
                yield entry

        return run(self, noted())

    patch.setattr(TransformersEngine, "run", counted)
    return asked
