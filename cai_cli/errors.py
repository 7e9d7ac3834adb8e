"""What can go wrong: a run that failed (exit 1), bad usage or input (exit 2), and a record set aside.

Messages are one sentence that says what is wrong and what to do. Everything else that
escapes is a bug, and `--debug` shows its traceback.
"""

from typing import Any


class CaiError(Exception):
    """The run failed: exit code 1."""

    exit_code = 1


class InputError(CaiError):
    """Bad usage or bad input: exit code 2. Known, where it can be, before any model is loaded."""

    exit_code = 2


class SetAside(Exception):
    """A sound record that this step can't process, for the reason given: it is named, counted and gives no output.

    `record` is what had come of it so far, where that is more than what went in.
    """

    def __init__(self, reason: str, record: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.record = record
