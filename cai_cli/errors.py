"""The errors: a failed run (exit code 1), bad usage or input (exit code 2), and a skipped record.

A message is one sentence that says what is wrong and what to do. Any other exception that reaches the user is a bug;
`--debug` shows its traceback.
"""

from typing import Any


class CaiError(Exception):
    """The run failed: exit code 1."""

    exit_code = 1


class InputError(CaiError):
    """Bad usage or bad input: exit code 2. Reported before any model is loaded, if possible."""

    exit_code = 2


class Skipped(Exception):
    """A valid record that this step cannot process, with the reason. It is named and counted, and gives no output."""

    def __init__(self, reason: str, record: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.record = record
        """The record with the work done on it so far; None if there is none."""


interrupted = False
"""Whether a signal has asked this process to end."""


def interrupt(number: int, frame: object) -> None:
    """The handler of SIGINT and SIGTERM: raises KeyboardInterrupt.

    Python drops an exception that is raised inside a callback of its own, for example while a module is imported. So a long loop
    also looks at `interrupted`.
    """
    global interrupted
    interrupted = True
    raise KeyboardInterrupt
