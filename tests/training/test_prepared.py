"""Examples on disk: made in parallel, once, and the same as one by one."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cai_cli import streams
from cai_cli.data.records import preference_error
from cai_cli.engines import models
from cai_cli.errors import InputError
from cai_cli.method.tokens import Renderer
from cai_cli.pipeline import manifest
from cai_cli.training import data, pm, prepared, sft
from cai_cli.training.examples import PreferenceExample, longest_side, preference_example
from cai_cli.training.prepared import Recipe, Source
from tests.processes import environment
from tests.rows import preferences, read_jsonl, revisions, write_jsonl
from tests.tiny import ROOT
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


def recipe(folder: str) -> Recipe:
    renderer = Renderer(models.load_tokenizer(Path(folder)))
    return Recipe(
        preference_error,
        lambda record: [record],
        lambda record: preference_example(renderer, "chat", record, 512),
        PreferenceExample,
        longest_side,
    )


def rows(path: str, how: Recipe, target: Path) -> bytes:
    target.mkdir()
    source = Source(path, manifest.hash_file(path), None)
    prepared.build([source], how, True, target, streams.Progress("test", None, True))
    return (target / "examples.arrow").read_bytes()


def test_several_processes_make_the_same_file_as_one(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [{**row, "id": f"{row['id']}-{n}"} for n in range(40) for row in preferences()]
    many.insert(700, {"id": "bad", "chosen": 3})
    many.insert(20, {"id": "long", "prompt": "x " * 3000, "chosen": "a", "rejected": "b"})
    path = write_jsonl(tmp_path / "in.jsonl", many)
    monkeypatch.setattr(prepared, "CHUNK", 16)
    one = rows(path, recipe(tiny), tmp_path / "one")
    monkeypatch.setattr(prepared, "PARALLEL", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert rows(path, recipe(tiny), tmp_path / "two") == one
    assert manifest.read(tmp_path / "two" / "counts.json") == {"lines": [len(many) - 1], "bad": 1, "preferences": len(many) - 1}


def test_examples_are_made_once(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = write_jsonl(tmp_path / "in.jsonl", preferences())

    def entries(**more: object) -> set[str]:
        pm.train(settings("train-pm", [source], tiny, tmp_path / "out", steps=1, **more))
        return {path.name for path in prepared.cache().iterdir() if path.is_dir()}

    first = entries()
    assert len(first) == 1
    with monkeypatch.context() as changed:
        changed.setattr(prepared, "build", lambda *_: pytest.fail("made again"))
        changed.setattr(data, "check_lines", lambda *_: pytest.fail("checked again"))
        assert entries(lr=1e-4, seed=1) == first
    assert len(entries(max_length=600)) == 2
    write_jsonl(tmp_path / "in.jsonl", preferences()[1:])
    assert len(entries()) == 3
    old = time.time() - prepared.UNUSED - 1
    for name in first:
        os.utime(prepared.cache() / name, (old, old))
    assert not first & entries(max_length=700)  # an entry that was not used for a month is removed


def test_two_runs_at_once_make_them_once(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_jsonl(tmp_path / "in.jsonl", preferences())
    source, how, made = Source(path, manifest.hash_file(path), None), recipe(tiny), []
    build = prepared.build

    def slow(*args: object) -> None:
        made.append(args)
        time.sleep(0.3)
        build(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(prepared, "build", slow)

    def ask() -> None:
        prepared.prepared("entry", [source], how, False, lambda: streams.Progress("test", None, True))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_rows_that_give_no_example_keep_their_record(tiny: str, tmp_path: Path) -> None:
    """Tool turns, which `answers` cannot read, as well as long answers."""
    tools = {
        "id": "t",
        "messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}, {"role": "assistant", "content": "z"}],
    }
    source = write_jsonl(tmp_path / "in.jsonl", [*revisions(2), tools])
    sft.train(settings("train-sft", [source], tiny, tmp_path / "out", steps=1))
    [skipped] = read_jsonl(tmp_path / "out" / "skipped.jsonl")
    assert (skipped["file"], skipped["line"], skipped["record"]["id"]) == (source, 3, "t")
    assert "tool" in skipped["error"]
    only = write_jsonl(tmp_path / "only.jsonl", [tools])
    with pytest.raises(InputError, match="nothing to train on: every row was skipped"):
        sft.train(settings("train-sft", [only], tiny, tmp_path / "out2", steps=1))


KILLED = """
import os, sys, time
from pathlib import Path
from cai_cli import streams
from cai_cli.training import prepared

def wait(record):
    Path(sys.argv[2]).touch()
    time.sleep(60)

prepared.PARALLEL = 0
os.sched_getaffinity = lambda _: {0, 1}
recipe = prepared.Recipe(lambda record: None, lambda record: [record], wait, dict, len)
source = prepared.Source(sys.argv[1], "", None)
prepared.prepared("entry", [source], recipe, False, lambda: streams.Progress("test", None, True))
"""


def test_a_killed_preparation_leaves_no_process_and_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that it started have inherited the lock: if they lived on, the next run would wait forever."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, begun = write_jsonl(tmp_path / "in.jsonl", preferences()), tmp_path / "begun"
    process = subprocess.Popen([sys.executable, "-c", KILLED, source, str(begun)], cwd=ROOT, env=environment())
    until = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    with open(prepared.cache() / "entry.lock", "wb") as lock:
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.05)
    pytest.fail("the lock is still held")


def test_a_file_that_changes_while_it_is_read_is_reported(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = Source(write_jsonl(tmp_path / "in.jsonl", preferences()), "what it was", None)
    with pytest.raises(InputError, match="was changed while it was read"):
        prepared.prepared("entry", [source], recipe(tiny), False, lambda: streams.Progress("test", None, True))
    assert not (prepared.cache() / "entry").exists()
