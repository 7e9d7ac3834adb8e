"""What the files of constitutions and rubrics have in common: reading one, and checking its fields."""

from __future__ import annotations

from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

from cai_cli.data import strict_yaml
from cai_cli.errors import InputError


def packaged(folder: str) -> dict[str, Path]:
    """The packaged YAML files of a folder by name. In a checkout the folder is at the top."""
    for root in (Path(str(resources.files("cai_cli"))), Path(__file__).parents[2]):
        if (root / folder).is_dir():
            return {path.stem: path for path in sorted((root / folder).glob("*.yaml"))}
    return {}


def find(name: str, known: dict[str, Path], kind: str, folder: Path = Path()) -> tuple[Path, Any, str]:
    """(path, content, SHA-256) of a YAML or JSON file, named by one of `known` or by its path. InputError if it is none."""
    path = known.get(name, folder / name)
    try:
        data = strict_yaml.read(path)
    except OSError as problem:
        if Path(name).suffix or "/" in name:
            raise InputError(f"{path}: {(problem.strerror or str(problem)).lower()}") from None
        raise InputError(f"no {kind} '{name}': give a file, or one of {', '.join(known)}") from None
    return path, strict_yaml.load(data, str(path)), sha256(data).hexdigest()


def only_known(entry: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    """InputError if a mapping has a field that is not `known`."""
    if unknown := sorted(str(key) for key in entry if key not in known):
        raise InputError(f"{where} has an unknown field '{unknown[0]}'; known fields: {', '.join(known)}")


def text(value: Any, where: str) -> str:
    """A text without white space at its ends. InputError if it is none, or empty."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} must be a non-empty string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} holds a lone surrogate (half of a character pair)") from None
    return value.strip()


def weight(value: Any, where: str) -> float:
    """A positive number. InputError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"{where}: 'weight' must be a positive number")
    return float(value)
