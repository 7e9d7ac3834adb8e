"""The two kinds of failure a user meets: a run that failed (exit 1), and bad usage or input (exit 2).

Messages are one sentence that says what is wrong and what to do. Everything else that
escapes is a bug, and `--debug` shows its traceback.
"""


class CaiError(Exception):
    """The run failed: exit code 1."""

    exit_code = 1


class InputError(CaiError):
    """Bad usage or bad input: exit code 2. Known, where it can be, before any model is loaded."""

    exit_code = 2
