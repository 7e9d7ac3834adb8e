"""Where a file came from: the manifests beside it and beside its inputs.

A manifest names its inputs as they were typed, relative to a working directory that it does not hold. So they are looked up
from the folder of the output, then from each folder above it, and at last from the present working directory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from cai_cli.pipeline import manifest
from cai_cli.pipeline.manifest import Manifest


def beside(path: Path) -> Manifest:
    """The manifest of a file or of a model directory; empty if it has none."""
    if impossible(path):
        return {}
    found = path / "manifest.json" if path.is_dir() else path.with_name(f"{path.name}.manifest.json")
    return manifest.read(found) if found.is_file() else {}


def impossible(path: Path) -> bool:
    """Whether a file, or its manifest beside it, cannot have this name (too long, or with NUL): to look for it is an error."""
    try:
        os.stat(f"{path}.manifest.json")
    except OSError as problem:
        return problem.errno == errno.ENAMETOOLONG
    except ValueError:  # it holds NUL or half a character
        return True
    return False


def find(name: str, of: Path, sha256: str | None = None) -> Path:
    """The file or directory that the manifest of the output `of` names `name`; the name itself if there is none.

    One whose own manifest holds the hash `sha256` is preferred, also if it was moved into the folder of `of`. The next best
    is one without a hash, such as a file without a manifest.
    """
    folder = Path(os.path.abspath(of)).parent
    if impossible(folder / name):
        return Path(f"{name[:99]!a}...")
    places = [base / name for base in (folder, *folder.parents, Path())]
    hashes = {place: beside(place).get("output", {}).get("sha256") for place in (*places, folder / Path(name).name)}
    if sha256 in hashes.values() and sha256:
        return next(place for place in hashes if hashes[place] == sha256)
    there = sorted((place for place in places if place.exists()), key=lambda place: hashes[place] is not None)
    return there[0] if there else Path(name)


def inputs(made: Manifest, of: Path) -> Iterator[tuple[str, Path]]:
    """(name as it was typed, path) of every input file that `made`, the manifest of the output `of`, names."""
    for entry in made.get("inputs", []):
        yield str(entry["path"]), find(str(entry["path"]), of, entry.get("sha256"))


def history(path: Path) -> list[tuple[Path, Manifest]]:
    """A file and the files that it was made from, nearest first, each once and with its manifest."""
    found = {path: beside(path)}
    for output, made in (queue := list(found.items())):  # it grows while it is read
        for _, place in inputs(made, output):
            if place not in found:
                found[place] = beside(place)
                queue.append((place, found[place]))
    return queue
