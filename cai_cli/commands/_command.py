"""The decorator that makes a function a command. It expands the shared flags and turns errors into exit codes.

    @command("Critique each record's answer.", example="cai critique responses.jsonl -m M -o critiques.jsonl")
    def critique(files: IO, model: Model, seed: Seed = 0) -> None: ...

A parameter whose type is a dataclass of `_flags` becomes one flag per field, in a panel of its own in the help. Every
command also gets --config and --debug. Every flag --a-name can be set by the environment variable CAI_A_NAME.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import functools
import inspect
import json
import math
import os
import signal
import sys
import time
import traceback
import typing
from collections.abc import Callable
from contextlib import nullcontext
from difflib import get_close_matches
from types import TracebackType
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from cai_cli import errors, streams
from cai_cli.commands._flags import Debug
from cai_cli.errors import CaiError, InputError
from cai_cli.pipeline import memory

_PANELS = {
    "IO": "Input",
    "ImportFlags": "Input",
    "Model": "Model",
    "Workers": "Many GPUs",
    "Prompting": "Model",
    "Sampling": "Sampling",
    "Principles": "Principles",
    "Grading": "Judging",
    "Rewards": "Reward",
    "Run": "Training",
}
"""The panel in the help of each dataclass of flags, and of those derived from it."""
_OWN_PANELS = (
    dict.fromkeys(("output", "restart", "manifest", "dry_run", "quiet"), "Output")
    | dict.fromkeys(("replicas", "tensor_parallel", "pipeline_parallel", "vllm", "address", "resource"), "Many GPUs")
    | {"model": "Model", "debug": None}
)
"""Fields that have another panel than their dataclass. None: the panel of the command's own flags."""
_ORDER = (None, *dict.fromkeys(_PANELS.values()), "Output")
"""The order of the panels."""


def read_config_file(ctx: typer.Context, value: str | None) -> str | None:
    """The callback of --config: a YAML mapping of this command's flags, long or short, without the dashes before them.

    The command line and the environment win.
    """
    try:
        return _read_config_file(ctx, value)
    except typer.BadParameter as problem:
        raise typer.BadParameter(streams.visible(problem.message)) from None


def _read_config_file(ctx: typer.Context, value: str | None) -> str | None:
    if value is None:
        return None
    from cai_cli.data import strict_yaml

    try:
        content = strict_yaml.load(strict_yaml.read(value), value)
    except OSError as problem:
        raise typer.BadParameter(f"{value}: {(problem.strerror or '').lower()}") from None
    except InputError as problem:
        raise typer.BadParameter(str(problem)) from None
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{value}: must be a mapping of flags to values")
    known = {opt.lstrip("-"): param for param in ctx.command.params if param.name != "config" for opt in param.opts}
    given: dict[str, Any] = {}
    for key, setting in content.items():
        name = str(key).replace("_", "-")
        if name not in known:
            close = [f"; did you mean '{match}'?" for match in get_close_matches(name, known, 1)]
            raise typer.BadParameter(f"{value}: this command has no flag '{key}'{''.join(close)}")
        if known[name].name in given:
            raise typer.BadParameter(f"{value}: '{key}' is the same flag as an earlier key; keep one of them")
        try:
            given[str(known[name].name)] = _setting(ctx, known[name], setting)
        except typer.BadParameter as problem:
            raise typer.BadParameter(f"{value}: '{key}': {problem.message}") from None
    ctx.default_map = {**(ctx.default_map or {}), **given}
    return value


def _setting(ctx: typer.Context, param: Any, setting: Any) -> Any:
    """A flag's value from a config file, in the form in which typer takes it. BadParameter if its type is wrong."""
    several = param.nargs != 1 or getattr(param, "multiple", False)
    values = setting if several and isinstance(setting, list) else [setting]
    is_flag = getattr(param, "is_flag", False)
    if any(isinstance(v, list | dict) or (isinstance(v, bool) and not is_flag) for v in values):
        wanted = "true or false" if is_flag else "a number or a text"
        raise typer.BadParameter(f"give {wanted}, not {json.dumps(setting, default=str)}")
    setting = values if several else setting
    if setting is not None:
        param.process_value(ctx, setting)
    return setting


class _Command(TyperCommand):
    """A command whose errors suggest the flag that was meant, and name the environment variable that holds a bad value.

    A context is `Any` because typer's own copy of click is private.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line, the environment and the config file."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as problem:
            param: Any = problem.param
            if param is not None and getattr(ctx.get_parameter_source(param.name), "name", "") == "ENVIRONMENT":
                problem.message += f" (from the environment variable {param.envvar})"
            raise
        except Exception as problem:
            if names := getattr(problem, "possibilities", None):  # typer's private NoSuchOption
                problem.message += f". Did you mean {' or '.join(sorted(names))}?"  # type: ignore[attr-defined]
                problem.possibilities = None  # type: ignore[attr-defined]
            raise


_COMMON = {
    "config": Annotated[
        str | None,
        Option(
            "--config",
            metavar="FILE.yaml",
            is_eager=True,
            callback=read_config_file,
            help="Read flags from a YAML file; the command line and the environment win.",
        ),
    ],
    "debug": Debug,
}


def add_command(
    app: typer.Typer, name: str | None, help: str, example: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to a Typer app as a command: its shared flags become single flags, and its help ends with the example."""
    text = f"{help}\n\n[bold]Example:[/bold]\n\n" + "\n\n".join(f"    {line}" for line in example.splitlines())

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, cls=_Command, help=text, no_args_is_help=False)(_spread(function))
        return function

    return decorate


def group_app(help: str, cls: type[TyperGroup] | None = None) -> typer.Typer:
    """A Typer app for a command that has subcommands (see `add_command`). `cls`: a `LazyGroup`, if it has some of those."""
    return typer.Typer(
        cls=cls, help=help, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )


def command(help: str, example: str) -> Callable[[Callable[..., None]], typer.Typer]:
    """Make a function the only command of a new Typer app (see `add_command`)."""

    def decorate(function: Callable[..., None]) -> typer.Typer:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
        add_command(app, None, help, example)(function)
        return app

    return decorate


def _spread(function: Callable[..., None]) -> Callable[..., None]:
    """The function with one keyword parameter per flag, instead of dataclasses of flags, and with --config and --debug."""
    hints = typing.get_type_hints(function, include_extras=True)
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters: list[inspect.Parameter] = []

    panels: dict[str, str | None] = {}

    def add(name: str, annotation: Any, default: Any, panel: str | None = None) -> None:
        flag = _flag(annotation, panel)
        panels[name] = panel if flag is not annotation else None  # arguments keep their order
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=flag, default=default))

    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if not dataclasses.is_dataclass(kind):
            add(name, kind, parameter.default)
            continue
        fields = typing.get_type_hints(kind, include_extras=True)
        groups[name] = (typing.cast(type, kind), list(fields))
        panel = next((_PANELS[base.__name__] for base in inspect.getmro(groups[name][0]) if base.__name__ in _PANELS), None)
        for spec in dataclasses.fields(kind):
            default = inspect.Parameter.empty if spec.default is dataclasses.MISSING else spec.default
            add(spec.name, fields[spec.name], default, _OWN_PANELS.get(spec.name, panel))
    taken = {parameter.name for parameter in parameters}
    for name, annotation in _COMMON.items():
        if name not in taken:
            add(name, annotation, None if name == "config" else False)

    parameters.sort(key=lambda parameter: (_ORDER.index(panels[parameter.name]), parameter.name in _COMMON))

    @functools.wraps(function)
    def wrapper(**values: Any) -> None:
        values.pop("config", None)
        debug = values["debug"] if "debug" in taken else values.pop("debug")
        with nullcontext() if memory.current.get() else exit_codes(debug):
            for name, value in values.items():
                if isinstance(value, float) and not math.isfinite(value):  # inside every range of typer's
                    raise InputError(f"--{name.replace('_', '-')} {value}: must be a finite number")
            for name, (kind, names) in groups.items():
                values[name] = kind(**{key: values.pop(key) for key in names})
            calm_libraries(debug)
            function(**values)

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _flag(annotation: Any, panel: str | None) -> Any:
    """A parameter's annotation with a panel in the help and an environment variable, if it is a flag."""
    kind, *rest = typing.get_args(annotation) or (annotation,)
    if not rest or not isinstance(rest[0], OptionInfo):
        return annotation
    info = copy.copy(rest[0])  # several commands share it
    name = str(info.default).lstrip("-")  # in an annotation typer keeps the first name there
    info.envvar, info.show_envvar = f"CAI_{name.replace('-', '_').upper()}", False
    info.rich_help_panel = panel
    return Annotated[kind, info]


class exit_codes:
    """Turns the exception that ends a command into an exit code.

    1 failed, 2 bad usage or input, 130 interrupted, 141 the reader of the output has gone.
    """

    def __init__(self, debug: bool) -> None:
        self.debug = debug

    def __enter__(self) -> None:
        signal.signal(signal.SIGTERM, errors.interrupt)

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if problem is None or isinstance(problem, SystemExit | typer.Exit):
            return
        if isinstance(problem, BrokenPipeError):  # the reader has gone: end at once, as other tools do
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(141)
        if isinstance(problem, KeyboardInterrupt):
            sys.exit(130)
        if type(problem).__module__.startswith("typer"):  # typer reports its own errors
            return
        if self.debug:
            traceback.print_exception(problem)
        if isinstance(problem, CaiError):
            # All processes find the same bad input, and process 0 reports it. It needs time for that, because the launcher
            # ends all processes as soon as one ends.
            if streams.process and isinstance(problem, InputError):
                time.sleep(5)
            else:
                streams.fail(str(problem))
            sys.exit(problem.exit_code)
        if type(problem).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            streams.fail("the GPU is out of memory; finished work is kept: free some memory, or give a smaller --batch-size")
            sys.exit(1)
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):  # of what a command prints
            where = problem.filename or "standard output"
            streams.fail(f"{where}: the disk is full; free some space and run the same command again")
            sys.exit(1)
        text = " ".join(str(problem).split())[:500]
        streams.fail(f"unexpected {type(problem).__name__}: {text}; run again with --debug to see where")
        sys.exit(1)


def calm_libraries(debug: bool) -> None:
    """Set environment variables that disable the libraries' telemetry, progress bars and routine logs."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def require_input(path: str) -> None:
    """InputError if the input is standard input and that is the terminal: the user forgot the input."""
    if path == "-" and memory.current.get() is None and sys.stdin.isatty():
        raise InputError("no input: give a JSONL file, or pipe records in")
