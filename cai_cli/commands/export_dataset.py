"""Write files of records as a dataset that `datasets.load_dataset` reads and the Hub's viewer shows.

    cai export dataset hf/demo runs/demo/revisions-2.jsonl runs/demo/preferences.jsonl --license cc-by-4.0
    cai export dataset hf/demo runs/demo/preferences.jsonl --push me/demo-preferences --private

Each file becomes a configuration of its own, with the same columns in every row: `prompt` is always messages, a field that a row
does not have is null, and a field whose shape varies (`meta`, `label`, `grades` and others) is a column of JSON text. README.md
is the card: the configurations, the licence, and how each file was made, from the manifests. Nothing is uploaded without
--push.

Not in the paper.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import Quiet
from cai_cli.data import durable, jsonl
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record, dumps, encode
from cai_cli.data.preferences import sides
from cai_cli.data.records import assistant, preference_error, user
from cai_cli.errors import CaiError, InputError
from cai_cli.pipeline import lineage, manifest, outputs

MESSAGES = ("prompt", "chosen", "rejected", "messages")
ROUND = ("principle", "critique", "revision")
"""What a row holds of each round."""
_LISTS = dict.fromkeys(MESSAGES, ("role", "content")) | {"rounds": ROUND}
FIXED: dict[str, Record] = {
    **{name: {"list": [{"name": key, "dtype": "string"} for key in keys]} for name, keys in _LISTS.items()},
    "responses": {"list": "string"}, "flags": {"list": "string"}, "p_chosen": {"dtype": "float64"},
}  # fmt: skip
"""The types of the columns whose shape `column` makes, as the Hub's metadata write them."""
SIMPLE: dict[frozenset[type], str] = {
    frozenset({str}): "string", frozenset({int}): "int64", frozenset({float}): "float64", frozenset({bool}): "bool",
    frozenset({int, float}): "float64", frozenset(): "string",
}  # fmt: skip
"""The type of a column by those of its values."""
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def column(name: str, value: Any) -> Any:
    """A field's value in the shape that it has in every row. ValueError if it has another one."""
    if value is None:
        return None
    if name in MESSAGES:
        messages = value if isinstance(value, list) else [(user if name == "prompt" else assistant)(str(value))]
        if any(not isinstance(m, dict) or not {"role", "content"} <= m.keys() for m in messages):
            raise ValueError(f"'{name}' must be a text, or messages with 'role' and 'content'")
        return [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
    if name == "p_chosen":
        if not isinstance(value, int | float) or not abs(value) <= 1:
            raise ValueError("'p_chosen' must be a probability")
        return float(value)
    if name not in FIXED:
        return value
    if not isinstance(value, list):
        raise ValueError(f"'{name}' must be a list")
    return [{key: jsonl.as_object(each).get(key) for key in ROUND} if name == "rounds" else str(each) for each in value]


def rows(source: Path) -> Iterator[Record]:
    """A file's records; preferences whose prompt is in both sides, as in hh-rlhf, with a `prompt` of their own."""
    for record in read_with_ids(str(source)):
        if {"chosen", "rejected"} <= record.keys() and preference_error(record) is None:
            with suppress(ValueError):
                record |= sides(record)._asdict()
        yield record


Columns = dict[str, str]
"""How each field is written, in the order of appearance: "fixed" (`FIXED`), a type, or "json" where its values differ in type."""


def kinds(records: Iterable[Record]) -> Columns:
    """The columns of records."""
    found: dict[str, set[type]] = {}
    for record in records:
        for name, value in record.items():
            found.setdefault(name, set()).add(type(value))
    types = {name: frozenset(each - {type(None)}) for name, each in found.items()}
    return {name: "fixed" if name in FIXED else SIMPLE.get(each, "json") for name, each in types.items()}


def feature(name: str, how: str) -> Record:
    """A column's type as the card declares it: a reader that guesses from the first rows may fail at a later one."""
    return {"name": name, **(FIXED[name] if how == "fixed" else {"dtype": "string" if how == "json" else how})}


def row(record: Record, how: Columns) -> Record:
    """A record with these columns."""
    values = {name: column(name, record.get(name)) for name in how}
    return {name: dumps(value) if how[name] == "json" and value is not None else value for name, value in values.items()}


def write(source: Path, target: Path) -> tuple[int, Columns]:
    """Write a file of records with one set of columns, under its name when it is complete; returns the number of rows."""
    how, count = kinds(rows(source)), 0
    beginning = target.with_name(f".{target.name}.partial")
    try:
        with beginning.open("wb") as file:
            for record in rows(source):
                try:
                    file.write(encode(row(record, how)))
                except ValueError as problem:
                    raise InputError(f"{source}: record {record['id']}: {problem}; correct it, or leave the field out") from None
                count += 1
        durable.replace(beginning, target)
    except OSError as problem:
        raise outputs.failed(str(target), problem) from None
    return count, how


def steps_of(path: Path) -> list[str]:
    """How a file was made, oldest step first: a line of Markdown for each of its manifests."""
    found = []
    for place, made in reversed(lineage.history(path)):
        if not made:
            found.append(f"- `{place.name}`: an input without a manifest")
            continue
        model = made.get("model", {})
        of = f", model `{model['name']}`" if model.get("name") else ""
        constitution = made.get("constitution", {}).get("name")
        by = f", constitution `{constitution}`" if constitution else ""
        seed = f", seed {made['seed']}" if "seed" in made else ""
        found.append(f"- `{place.name}`: `cai {made['step']}`{of}{by}{seed}")
    return found


def card(title: str, files: dict[str, Path], made: dict[str, tuple[int, Columns]], license: str | None) -> str:
    """README.md, which begins with the Hub's metadata."""
    head: dict[str, Any] = {
        "configs": [{"config_name": name, "data_files": f"{name}.jsonl"} for name in files],
        "dataset_info": [
            {"config_name": name, "features": [feature(*each) for each in how.items()]} for name, (_, how) in made.items()
        ],
        "tags": ["constitutional-ai", "cai"],
    } | ({"license": license} if license else {})
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", "", f"# {title}", ""]
    lines += ["Made with `cai`, Constitutional AI on the command line (Bai et al. 2022, arXiv 2212.08073).", ""]
    for name, path in files.items():
        about = f"{streams.plural(made[name][0], 'row')}; SHA-256 of the records: `{manifest.hash_file(str(path))}`."
        lines += [f"## {name}", "", about, ""]
        lines += [*steps_of(path), ""]
    lines += ["Fields: `docs/records.md` of `cai`. Columns of JSON text hold what differs in shape from row to row.", ""]
    return "\n".join(lines)


def named(paths: Sequence[str]) -> dict[str, Path]:
    """The files by the names of their configurations. InputError if two have one name, or one is not there."""
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        name = re.sub(r"[^\w-]", "-", path.name.removesuffix(".gz").removesuffix(".jsonl"))
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if name in found:
            raise InputError(f"{path}: its name is also that of {found[name]}; rename one of the two")
        found[name] = path
    return found


@command(
    "Export files of records as a dataset for `datasets.load_dataset` and the Hub, with a card.",
    "cai export dataset hf/demo runs/demo/revisions-2.jsonl runs/demo/preferences.jsonl --license cc-by-4.0",
)
def app(
    folder: Annotated[Path, Argument(metavar="DIR", help="The folder to write.")],
    files: Annotated[list[str], Argument(metavar="FILES", help="JSONL files of records (.gz too).")],
    license: Annotated[
        str | None, Option("--license", metavar="NAME", help="The licence in the card, by the Hub's name, such as cc-by-4.0.")
    ] = None,
    push: Annotated[
        str | None, Option("--push", metavar="OWNER/NAME", help="Also upload the folder to the Hub, as this dataset.")
    ] = None,
    private: Annotated[bool, Option("--private", help="With --push: create the dataset as a private one.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write a dataset."""
    found = named(files)
    if push and not _NAME.fullmatch(push):
        raise InputError(f"--push {push}: give OWNER/NAME")
    for name, path in found.items():
        if (target := folder / f"{name}.jsonl").exists() and target.samefile(path):
            raise InputError(f"{path}: is in {folder}, and would be replaced by its reduced form; give another folder")
    for left in folder.glob(".*.jsonl.partial"):  # of a run that was interrupted
        left.unlink()
    if folder.exists() and set(os.listdir(folder)) - {"README.md", *(f"{name}.jsonl" for name in found)}:
        raise InputError(f"{folder}: holds other files; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: write(path, folder / f"{name}.jsonl") for name, path in found.items()}
    outputs.write_text(str(folder / "README.md"), card(folder.name, found, made, license))
    rest = f" ({', '.join(f'{name} {count:,}' for name, (count, _) in made.items())})"
    streams.say(f"cai export: {streams.plural(sum(count for count, _ in made.values()), 'row')}{rest} -> {folder}", quiet)
    if push:
        upload(folder, push, private)
        streams.say(f"cai export: uploaded to https://huggingface.co/datasets/{push}", quiet)


def upload(folder: Path, name: str, private: bool) -> None:
    """Create the dataset on the Hub if it is not there, and upload the folder. CaiError if that fails."""
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        HfApi().upload_folder(folder_path=folder, repo_id=name, repo_type="dataset", commit_message="cai export dataset")
    except Exception as problem:  # of the network, the token, or the name: the library has a dozen classes
        why = " ".join(str(problem).split())[:300]
        raise CaiError(f"--push {name}: {why}; {folder} is complete, and the same command tries again") from None
