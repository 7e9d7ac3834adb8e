"""No file makes a command crash, hang or fill the memory: generated inputs, and files made to harm."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from cai_cli.engines import models
from cai_cli.errors import InputError
from tests import fuzz
from tests.processes import CAI, environment
from tests.tiny import ROOT

READERS = list(fuzz.readers("", ""))
GUIDED = (
    "stats",
    "constitution",
    "foreign constitution",
    "config",
    "manifest of an input",
    "journal",
    "server replies",
    "import preferences",
    "import csv",
)
"""Readers that spend their time in our own code, whose coverage guides atheris."""
MOST = 2 * 2**30
"""Address space of a command that reads a bomb, in bytes. Unpacked or expanded, each takes more."""


@pytest.mark.parametrize("name", READERS)
def test_generated_inputs_are_read_or_refused(
    name: str, tiny: str, tiny_pm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_tokenizer", cache(models.load_tokenizer))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    reader = fuzz.readers(tiny, tiny_pm)[name]
    read = [fuzz.check(reader, data, tmp_path / "fuzzed") for data in reader.valid]
    assert any(read), "it refuses what is valid"
    assert fuzz.fuzz(reader, 40, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", READERS)
def test_twenty_thousand_inputs_are_read_or_refused(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", name, "20000"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    print(done.stdout.strip())


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or this system")
@pytest.mark.parametrize("name", GUIDED)
def test_inputs_found_by_coverage_are_read_or_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, "--atheris", "20000"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-5000:]


def long_line(path: Path) -> None:
    """One line of 1 GiB, most of it a hole in the file."""
    with path.open("wb") as stream:
        stream.write(b"prompt\n" if path.suffix == ".csv" else b'{"id": "a", "prompt": "Hi"}\n{"id": "b", "prompt": "')
        stream.truncate(2**30)


def nested(before: bytes, after: bytes = b"") -> Callable[[Path], object]:
    """Lists nested 100,000 deep, after something else."""
    return lambda path: path.write_bytes(before + b"[" * 100_000 + b"]" * 100_000 + after)


def digits(before: bytes, after: bytes = b"") -> Callable[[Path], object]:
    """A number of 10,000 digits, after something else."""
    return lambda path: path.write_bytes(before + b"9" * 10_000 + after)


def gzip_bomb(path: Path) -> None:
    """256 MiB of blank lines in a quarter of a megabyte."""
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(b"prompt\n" if ".csv" in path.suffixes else b"")
        for _ in range(256):
            stream.write((b" " * 1023 + b"\n") * 1024)


def aliases(path: Path) -> None:
    """Nine lists, each of nine times the one before: 400 million texts."""
    rows = [b"a: &a [lol]\n"]
    rows += [b"%c: &%c [%s]\n" % (97 + i, 97 + i, b",".join([b"*%c" % (96 + i)] * 9)) for i in range(1, 10)]
    path.write_bytes(b"".join(rows))


def long_row(path: Path) -> None:
    """A CSV field with quotation marks around 128 MiB of lines."""
    with path.open("wb") as stream:
        stream.write(b'prompt\n"')
        for _ in range(128):
            stream.write((b" " * 1023 + b"\n") * 1024)


CHECK, IMPORT, STATS = ("constitution", "check"), ("import", "preferences"), ("stats",)
CONFIG = ("stats", "-", "--config")
MADE = b'{"step": "sample",\n "x": '
BOMBS: dict[str, tuple[tuple[str, ...], str, Callable[[Path], object], str]] = {
    "long line of records": (STATS, "x.jsonl", long_line, "x.jsonl:2: the line is longer than 64 MiB"),
    "long line of preferences": (IMPORT, "x.jsonl", long_line, "x.jsonl:2: the line is longer than 64 MiB"),
    "long line of text": (("import", "text"), "x.txt", long_line, "x.txt:2: the line is longer than 64 MiB"),
    "long line of YAML": (CHECK, "x.yaml", long_line, "x.yaml:2: the file goes on after 4 MiB"),
    "long line of CSV": (("import", "csv"), "x.csv", long_line, "x.csv:2: the line is longer than 64 MiB"),
    "long row of CSV": (("import", "csv"), "x.csv", long_row, "x.csv:65537: the row is longer than 64 MiB"),
    "gzip of CSV": (("import", "csv"), "x.csv.gz", gzip_bomb, "x.csv.gz:65537: unpacks to more than 100 times the file's size"),
    "separators in CSV": (("import", "csv"), "x.csv", lambda path: path.write_bytes(b"prompt\n" + b"," * 10**7), "x.csv:2: more than"),
    "nested records": (STATS, "x.jsonl", nested(b'{"id": "a"}\n{"a": ', b"}\n"), "x.jsonl:2: not valid JSON: nested deeper than 64 levels"),
    "nested array": (IMPORT, "x.json", nested(b'[\n{"prompt": "Hi"},\n', b"]"), "x.json:3: not valid JSON: nested deeper than 64 levels"),
    "nested YAML": (CHECK, "x.yaml", nested(b"name: x\nprinciples: "), "x.yaml:2: not valid YAML: nested deeper than 64 levels"),
    "nested foreign constitution": (CHECK, "x.json", nested(b'{\n"a": ', b"}"), "x.json:2: not valid JSON: nested deeper than 64 levels"),
    "nested config": (CONFIG, "x.yaml", nested(b"limit: "), "x.yaml:1: not valid YAML: nested deeper than 64 levels"),
    "nested manifest": (("report",), "x.manifest.json", nested(MADE, b"}"), "x.manifest.json:2: not a manifest (nested deeper than 64 levels)"),
    "gzip of records": (STATS, "x.jsonl.gz", gzip_bomb, "x.jsonl.gz:65537: unpacks to more than 100 times the file's size"),
    "gzip of preferences": (IMPORT, "x.jsonl.gz", gzip_bomb, "x.jsonl.gz:65537: unpacks to more than 100 times the file's size"),
    "gzip of text": (("import", "text"), "x.txt.gz", gzip_bomb, "x.txt.gz:65537: unpacks to more than 100 times the file's size"),
    "aliases in a constitution": (CHECK, "x.yaml", aliases, "x.yaml:8: not valid YAML: more than 4,194,304 characters"),
    "aliases in a config": (CONFIG, "x.yaml", aliases, "x.yaml:8: not valid YAML: more than 4,194,304 characters"),
    "digits in a record": (STATS, "x.jsonl", digits(b'{"id": "a"}\n{"a": ', b"}\n"), "x.jsonl:2: not valid JSON: a number of more than 200 digits"),
    "digits in an array": (IMPORT, "x.json", digits(b"[\n", b"]"), "x.json:2: not valid JSON: a number of more than 200 digits"),
    "digits in YAML": (CHECK, "x.yaml", digits(b"name: x\nversion: "), "x.yaml:2: not valid YAML: a number of more than 200 digits"),
    "digits in a config": (CONFIG, "x.yaml", digits(b"limit: "), "x.yaml:1: not valid YAML: a number of more than 200 digits"),
    "digits in a manifest": (("report",), "x.manifest.json", digits(MADE, b"}"), "x.manifest.json:2: not a manifest (a number of more than 200"),
}  # fmt: skip
"""What reads the bomb; its file; what writes it; and where and why it is refused."""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_a_limit_with_file_and_line(name: str, tmp_path: Path) -> None:
    command, file, write, message = BOMBS[name]
    write(tmp_path / file)
    done = subprocess.run(
        [*CAI, *command, str(tmp_path if command == ("report",) else tmp_path / file)],
        cwd=ROOT,
        env={**environment(), "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    said = " ".join(done.stderr.replace("│", "").split())
    assert done.returncode == 2, said
    assert message in said
    assert len(done.stderr) < 2000


def test_a_journal_that_claims_more_than_its_output_has_is_cut_back(tmp_path: Path) -> None:
    from cai_cli.pipeline.outputs import FileOutput

    (tmp_path / "out.partial").write_bytes(b"{}\n{}\n")
    (tmp_path / "out.partial.manifest.json").write_text('{"fingerprint": {}}')
    (tmp_path / "out.partial.journal").write_bytes(b'["a",1,0,3,4,0,0,0.1]\n["b",1000000000000,0,3,4,0,0,0.1]\n')
    output = FileOutput(str(tmp_path / "out"), {})
    output.close()
    assert (output.done, output.last) == (1, "a")
    assert (tmp_path / "out.partial").read_bytes() == b"{}\n"


def test_a_line_without_an_end_in_a_journal_is_not_read_whole(tmp_path: Path) -> None:
    from cai_cli.pipeline import journal, shards

    entry = b'["1:0011223344556677",1,0,3,4,0,0,0.1]\n'
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    for name in ("journal", "a.jsonl.order"):
        with (tmp_path / name).open("wb") as stream:
            stream.write(entry)
            stream.truncate(2**30)  # zeros that take no space
    tracemalloc.start()
    try:
        assert list(journal.digests(tmp_path / "journal")) == ["1:0011223344556677"]
        with pytest.raises(InputError, match=r"a\.jsonl\.order:2: not an entry of a shard's order"):
            list(shards.merge([str(tmp_path / "a.jsonl")]))
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_an_array_is_read_entry_by_entry() -> None:
    """The memory does not hold the whole array: an entry is given before the next one, in a pipe that is still open."""
    from cai_cli.data import json_array

    receive, send = os.pipe()
    os.write(send, b'\xef\xbb\xbf [ {"a": "\xc3\xa9"},\n 1')
    with os.fdopen(receive, "rb", buffering=0) as stream:
        entries = json_array.items("x.json", stream)
        assert next(entries) == (1, {"a": "é"})
        os.write(send, b"2]")
        os.close(send)
        assert list(entries) == [(2, 12)]


@pytest.mark.parametrize(
    "name", ["9" * 300, "9" * 250, "a/" * 3000, "x\0y", "\ud800"], ids=["long", "almost", "deep", "NUL", "half"]
)
@pytest.mark.parametrize("reader", ["manifest", "manifest of an input", "manifest of a shard"])
def test_a_manifest_may_name_what_no_file_can_be_called(reader: str, name: str, tmp_path: Path) -> None:
    found = fuzz.readers("", "")[reader]
    for field in ("inputs", "joined", "pm", "model", "constitution"):
        made = json.loads(found.valid[0])
        entry = {"path": name, "name": name, "sha256": "0"}
        made[field] = {**made[field], "name": name} if field in ("model", "constitution") else [entry]
        fuzz.check(found, json.dumps(made).encode(), tmp_path / "fuzzed")
