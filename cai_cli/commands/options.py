"""The flags that mean the same everywhere, as dataclasses, and the decorator that spreads them.

    @command("Critique each record's answer.", example="cai critique responses.jsonl -m M -o critiques.jsonl")
    def critique(files: IO, model: Model, seed: Seed = 0) -> None: ...

A parameter whose type is one of the dataclasses becomes one flag a field. Every command also gets
--config and --debug, and turns errors into a sentence and an exit code.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import signal
import sys
import time
import traceback
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from cai_cli import constitution, streams
from cai_cli.constitution import Constitution
from cai_cli.errors import CaiError, InputError


class EngineName(str, Enum):
    """--engine."""

    auto = "auto"
    vllm = "vllm"
    transformers = "transformers"


class Dtype(str, Enum):
    """--dtype."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Format(str, Enum):
    """--format."""

    auto = "auto"
    chat = "chat"
    hh = "hh"


Seed = Annotated[int, Option("--seed", help="Every random draw comes from it and the record's id.")]
Limit = Annotated[int | None, Option("--limit", min=1, help="Only the first N records.", metavar="N")]
Constitutions = Annotated[
    list[str] | None,
    Option(
        "--constitution", "-c", help="A packaged name (`default` unless given), a YAML file, or JSON of another form; repeatable."
    ),
]
FewShot = Annotated[
    int | None, Option("--few-shot", min=0, metavar="N", help="Show the constitution's first N examples; by default all.")
]
GpuMemory = Annotated[float, Option("--gpu-memory", min=0.01, max=1.0, help="Share of a GPU's memory to take (vllm engine).")]
Retry = Annotated[int, Option("--retry", min=0, metavar="N", help="Sample a flagged text again, up to N times.")]
Quiet = Annotated[bool, Option("--quiet", help="Only warnings and errors on standard error.")]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks and the libraries' own logs.")]
Output = Annotated[str, Option("--output", "-o", help="Where the records go; - is standard output.")]


@dataclass
class IO:
    """Input, output and how the run treats them."""

    input: Annotated[str, Argument(help="A JSONL file (.gz too); - is standard input.")] = "-"
    output: Output = "-"
    limit: Limit = None
    skip_bad: Annotated[bool, Option("--skip-bad", help="Set bad lines aside in OUT.rejected.jsonl and go on.")] = False
    restart: Annotated[bool, Option("--restart", help="Discard an unfinished OUT.partial.")] = False
    manifest: Annotated[str | None, Option("--manifest", help="Where the manifest goes when OUT is standard output.")] = None
    dry_run: Annotated[
        int | None,
        Option("--dry-run", min=1, metavar="N", help="Write the first N requests as the model would get them, and stop."),
    ] = None
    quiet: Quiet = False


@dataclass
class Model:
    """Which model, and how it is run."""

    model: Annotated[str, Option("--model", "-m", help="A model directory (safetensors), or a hub name OWNER/MODEL.")]
    engine: Annotated[
        EngineName, Option("--engine", help="auto: vllm where it is installed and can run here, else transformers.")
    ] = EngineName.auto
    dtype: Annotated[Dtype, Option("--dtype", help="auto: bfloat16 where the processor has it, else float32.")] = Dtype.auto
    batch_size: Annotated[int, Option("--batch-size", min=1, help="Requests computed at once (transformers engine).")] = 32
    gpu_memory: GpuMemory = 0.9
    deterministic: Annotated[
        bool,
        Option("--deterministic", help="Byte-identical output on one machine: transformers, float32, one request at a time."),
    ] = False
    trust_remote_code: Annotated[bool, Option("--trust-remote-code", help="Run code that comes with the model.")] = False


@dataclass
class Sampling:
    """How texts are drawn."""

    max_tokens: Annotated[int, Option("--max-tokens", min=1, help="Longest completion, in tokens.")] = 256
    temperature: Annotated[float, Option("--temperature", min=0.0, help="0 takes the likeliest token each time.")] = 1.0
    top_p: Annotated[
        float, Option("--top-p", min=0.001, max=1.0, help="Draw from the likeliest tokens of this total probability.")
    ] = 1.0
    seed: Seed = 0
    format: Annotated[
        Format,
        Option("--format", help="chat: the model's template. hh: plain transcripts. auto: chat where there is a template."),
    ] = Format.auto


@dataclass
class Principles:
    """Which constitution, and which of its principles."""

    constitution: Constitutions = None
    principles: Annotated[str | None, Option("--principles", metavar="ID,ID", help="Draw from these principles alone.")] = None
    tags: Annotated[str | None, Option("--tags", metavar="TAG,TAG", help="Draw from the principles that bear one of these.")] = (
        None
    )

    def load(self) -> Constitution:
        """The constitution of these flags. InputError says what is wrong with it."""
        ids, tags = ([part.strip() for part in (text or "").split(",") if part.strip()] for text in (self.principles, self.tags))
        return constitution.load(*(self.constitution or [constitution.DEFAULT])).select(ids, tags)


def read_config_file(ctx: typer.Context, value: str | None) -> str | None:
    """--config: a YAML mapping of this command's flags (without dashes); flags given win."""
    if value is None:
        return None
    import yaml

    try:
        content = yaml.safe_load(Path(value).read_text())
    except OSError as problem:
        raise typer.BadParameter(f"{value}: {(problem.strerror or '').lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise typer.BadParameter(f"{value}: not valid YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{value}: must be a mapping of flags to values")
    known = {param.name: param for param in ctx.command.params}
    given = {str(key).replace("-", "_"): setting for key, setting in content.items()}
    if unknown := sorted(set(given) - set(known)):
        raise typer.BadParameter(f"{value}: this command has no flag '{unknown[0]}'")
    for name, setting in given.items():
        if getattr(known[name], "multiple", False) and not isinstance(setting, list):
            given[name] = [setting]
    ctx.default_map = {**(ctx.default_map or {}), **given}
    return value


_COMMON = {
    "config": Annotated[
        str | None,
        Option(
            "--config",
            metavar="FILE.yaml",
            is_eager=True,
            callback=read_config_file,
            help="Flags from a YAML file; flags given here win.",
        ),
    ],
    "debug": Debug,
}


def add_command(
    app: typer.Typer, name: str | None, help: str, example: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to a Typer app as a command, with its shared flags spread out and its example in the help."""
    text = f"{help}\n\n[bold]Example:[/bold]\n\n" + "\n\n".join(f"    {line}" for line in example.splitlines())

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, help=text, no_args_is_help=False)(_spread(function))
        return function

    return decorate


def command(help: str, example: str) -> Callable[[Callable[..., None]], typer.Typer]:
    """Make a function the one command of a Typer app of its own (see `add_command`)."""

    def decorate(function: Callable[..., None]) -> typer.Typer:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
        add_command(app, None, help, example)(function)
        return app

    return decorate


def _spread(function: Callable[..., None]) -> Callable[..., None]:
    hints = typing.get_type_hints(function, include_extras=True)
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters: list[inspect.Parameter] = []

    def add(name: str, annotation: Any, default: Any) -> None:
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default))

    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if not dataclasses.is_dataclass(kind):
            add(name, kind, parameter.default)
            continue
        fields = typing.get_type_hints(kind, include_extras=True)
        groups[name] = (typing.cast(type, kind), list(fields))
        for spec in dataclasses.fields(kind):
            add(spec.name, fields[spec.name], inspect.Parameter.empty if spec.default is dataclasses.MISSING else spec.default)
    taken = {parameter.name for parameter in parameters}
    for name, annotation in _COMMON.items():
        if name not in taken:
            add(name, annotation, None if name == "config" else False)

    @functools.wraps(function)
    def wrapper(**values: Any) -> None:
        values.pop("config", None)
        debug = values["debug"] if "debug" in taken else values.pop("debug")
        for name, (kind, names) in groups.items():
            values[name] = kind(**{key: values.pop(key) for key in names})
        with exit_codes(debug):
            calm_libraries(debug)
            function(**values)

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


class exit_codes:
    """Turns what ends a command into the exit codes of the design: 1 failed, 2 bad input, 130 interrupted."""

    def __init__(self, debug: bool) -> None:
        self.debug = debug

    def __enter__(self) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: Any) -> None:
        if problem is None or isinstance(problem, SystemExit | typer.Exit):
            return
        if isinstance(problem, BrokenPipeError):  # the reader has gone: end as other tools do, at once
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(141)
        if isinstance(problem, KeyboardInterrupt):
            sys.exit(130)
        if type(problem).__module__.startswith("typer"):
            return
        if self.debug:
            traceback.print_exception(problem)
        if isinstance(problem, CaiError):
            if streams.process and isinstance(problem, InputError):  # the first process says what is wrong with the input,
                time.sleep(5)  # and needs the time: where one process ends, the launcher ends the others
            else:
                streams.fail(str(problem))
            sys.exit(problem.exit_code)
        if type(problem).__name__ == "OutOfMemoryError":  # torch's; it isn't imported here
            streams.fail("the GPU's memory is full; what was finished is kept: free some, or give a smaller --batch-size")
            sys.exit(1)
        text = " ".join(str(problem).split())[:500]
        streams.fail(f"unexpected {type(problem).__name__}: {text}; run again with --debug to see where")
        sys.exit(1)


def calm_libraries(debug: bool) -> None:
    """Environment that keeps libraries from telemetry, progress bars in logs and chatter."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def require_input(path: str) -> None:
    """InputError where a person forgot the input: standard input is the terminal."""
    if path == "-" and sys.stdin.isatty():
        raise InputError("no input: give a JSONL file, or pipe records in")
