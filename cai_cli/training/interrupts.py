"""Interrupts during training: finish the step, save, and stop."""

from __future__ import annotations

import signal
import time
from types import FrameType

from cai_cli import streams
from cai_cli.training import ranks

TWICE = 1.0
"""Seconds within which a second signal counts as the same one, since a scheduler and a launcher may both pass it on."""


class Interrupts:
    """While a run trains, a SIGINT or SIGTERM asks it to stop after the current step; a second one stops it at once."""

    def __init__(self) -> None:
        self.asked, self.when = False, 0.0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if time.monotonic() - self.when > TWICE:
                raise KeyboardInterrupt
            return
        self.asked, self.when = True, time.monotonic()
        if ranks.is_first():
            streams.say("cai: stopping after this step to save a checkpoint; interrupt again to stop at once")

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
