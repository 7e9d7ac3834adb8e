"""The generating commands as functions: records in, records out, in memory.

    from cai_cli import sample, critique, revise, label

    answers = sample(["How do I pick a lock?"], "models/SmolLM2-135M-Instruct", n=2, max_tokens=64)
    preferences = label(answers, "models/SmolLM2-135M-Instruct", few_shot=0)

A function runs the command of its name, with the command's flags as keywords (`top_p=0.9` for --top-p 0.9), its checks, its draws
and its records. A loaded model is kept for the next call. See docs/library.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from os import PathLike, fspath
from typing import Any, Unpack

from cai_cli.errors import InputError
from cai_cli.library_flags import CritiqueFlags, GradeFlags, LabelFlags, ReviseFlags, SampleFlags, ScoreFlags
from cai_cli.pipeline.memory import Memory, Record, current

__all__ = ["Records", "critique", "grade", "label", "release", "revise", "sample", "score"]

Value = str | int | float | bool | PathLike[str] | None
Flag = Value | Sequence[Value] | Mapping[str, Any]
"""A flag's value. A sequence repeats the flag; a mapping repeats it as KEY=JSON. None and False leave it out."""
_OF_FILES = {"input", "output", "limit", "skip_bad", "restart", "manifest", "dry_run", "shard", "config", "debug"}
"""Flags about files, which a call does not have."""
_engines: dict[str, Any] = {}


class Records(list[Record]):
    """The records that a step made, in the order of its input."""

    def __init__(self, made: Iterable[Record], skipped: list[Record]) -> None:
        super().__init__(made)
        self.skipped = skipped
        """A mapping with `error` and `record` for each record that gave no output."""


def sample(records: Iterable[Record | str], model: str | PathLike[str], *, n: int = 1, **flags: Unpack[SampleFlags]) -> Records:
    """Answer prompts. See `cai sample`.

    `records` have a `prompt`, a text or chat messages; a text alone is a record's prompt. With `n` 1 each gets a `response`, with
    more `responses`. InputError for a bad record, flag or model.
    """
    given = records if isinstance(records, str) else [{"prompt": each} if isinstance(each, str) else each for each in records]
    return _call("sample", given, model, {"n": n, **flags})


def critique(records: Iterable[Record], model: str | PathLike[str], **flags: Unpack[CritiqueFlags]) -> Records:
    """Criticise each record's answer by a drawn principle, which opens a round in its `rounds` (paper, section 3.1).

    See `cai critique`. InputError for a bad record, flag, constitution or model.
    """
    return _call("critique", records, model, flags)


def revise(
    records: Iterable[Record], model: str | PathLike[str], *, rounds: int | None = None, **flags: Unpack[ReviseFlags]
) -> Records:
    """Rewrite each record's answer after its critique, or make whole `rounds` of critique and revision (paper, section 3.1).

    See `cai revise`; `rounds` implies `from_response`, unless `direct` is true. InputError for a bad record, flag or model.
    """
    if rounds is not None:
        return _call("revise", records, model, {"rounds": rounds, "from_response": not flags.get("direct"), **flags})
    return _call("revise", records, model, flags)


def label(records: Iterable[Record], model: str | PathLike[str], **flags: Unpack[LabelFlags]) -> Records:
    """Ask a feedback model which of each record's `responses` is better, by a drawn principle (paper, section 4.1).

    One record per pair, with `chosen`, `rejected` and the probability `p_chosen`. See `cai label`. InputError for a bad record,
    flag, constitution or model.
    """
    return _call("label", records, model, flags)


def grade(records: Iterable[Record], model: str | PathLike[str], **flags: Unpack[GradeFlags]) -> Records:
    """Grade each answer by the criteria of a rubric or a constitution: `grades`, the probability of each class.

    See `cai grade`. InputError for a bad record, flag, rubric or model.
    """
    return _call("grade", records, model, flags)


def score(records: Iterable[Record], model: str | PathLike[str], **flags: Unpack[ScoreFlags]) -> Records:
    """Score every text of each record with a preference model: `scores`, its raw outputs.

    See `cai score`. InputError for a bad record, flag or model.
    """
    return _call("score", records, model, flags)


def release() -> None:
    """Free the loaded models."""
    from cai_cli.engines import adapters
    from cai_cli.pipeline import inline

    while _engines:
        inline.close(_engines)
    adapters.release()


def _call(name: str, records: Iterable[Record] | str, model: str | PathLike[str], flags: Mapping[str, Any]) -> Records:
    """Run a command in memory."""
    import typer

    given = [] if isinstance(records, str | bytes | Mapping) else list(records)
    if (isinstance(records, str | bytes | Mapping)) or not all(isinstance(record, dict) for record in given):
        raise InputError(f"{name}(): give a list of records, which are dictionaries")
    command: Any = typer.main.get_command(import_module(f"cai_cli.commands.{name}").app)
    params = {option.lstrip("-").replace("-", "_"): param for param in command.params for option in param.opts}
    if taken := sorted(flag for flag in flags if flag in params and params[flag].name in _OF_FILES):
        raise InputError(f"{name}(): {taken[0]} is a flag about files; a call takes records and returns them")
    flags = {flag: _joined(value, params.get(flag)) for flag, value in flags.items()}
    memory = Memory(given, _engines)
    token = current.set(memory)
    try:
        command.main(_arguments({"model": model, "quiet": True, **flags}), f"cai {name}", standalone_mode=False)
    except Exception as problem:
        if said := getattr(problem, "format_message", None):  # typer's own error, of a class that it does not export
            raise InputError(f"{name}(): {said()}") from None
        raise
    finally:
        current.reset(token)
    return Records(memory.made, memory.skipped)


def _joined(value: Flag, param: Any) -> Flag:
    """A list for a flag that is given once, such as principles, is joined by commas."""
    once = param is not None and not getattr(param, "multiple", False)
    return ",".join(map(str, value)) if once and isinstance(value, Sequence) and not isinstance(value, str) else value


def _arguments(flags: Mapping[str, Flag]) -> list[str]:
    """The flags as a command line has them."""
    found: list[str] = []
    for name, value in flags.items():
        values: list[Any] = [value]
        if isinstance(value, Mapping):
            values = [f"{key}={json.dumps(each)}" for key, each in value.items()]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            values = list(value)
        for each in values:
            if each is None or each is False:
                continue
            with suppress(TypeError):
                each = fspath(each)
            flag = f"--{name.replace('_', '-')}"
            if len(name) == 1:
                found += [f"-{name}", str(each)]
            else:
                found.append(flag if each is True else f"{flag}={each}")
    return found
