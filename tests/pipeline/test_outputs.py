"""Unfinished output: the partial file, its journal and the last renames."""

from __future__ import annotations

import json
import os
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai_cli.errors import CaiError, InputError
from cai_cli.pipeline import outputs
from tests.conftest import Here
from tests.processes import cai, count_lines
from tests.rows import read_jsonl
from tests.tiny import EXACT


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_kill_loses_or_doubles_a_record(tmp_path: Path, shape: list[tuple[int, int]], data: st.DataObject) -> None:
    """Cut the three files anywhere, reopen, write the rest: the result is that of an undisturbed run.

    All records are kept that the three files hold completely.
    """
    entries = [
        (f"d{i}", [{"r": [i, j]} for j in range(outs)], [{"x": [i, j]} for j in range(skipped)], (i, 1, 2 * i, 3 * i))
        for i, (outs, skipped) in enumerate(shape)
    ]
    shutil.rmtree(tmp_path / "w", ignore_errors=True)
    out = tmp_path / "w" / "out.jsonl"
    first = outputs.FileOutput(str(out), {"a": 1})
    for entry in entries:
        first.write(*entry)
    first.close()
    kept = dict.fromkeys((first.partial, first.journal, first.partial_skipped), 0)  # complete lines
    for path in kept:
        if path.exists():
            # a share of the file, not a number of bytes: the journal's length depends on the seconds that it holds
            share = data.draw(st.integers(0, 1000))
            path.write_bytes(path.read_bytes()[: path.stat().st_size * share // 1000])
            kept[path] = count_lines(path)
    whole = [
        n
        for n in range(kept[first.journal] + 1)
        if sum(outs for outs, _ in shape[:n]) <= kept[first.partial]
        and sum(skipped for _, skipped in shape[:n]) <= kept[first.partial_skipped]
    ]
    again = outputs.FileOutput(str(out), {"a": 1})
    assert list(again.digests()) == [entry[0] for entry in entries[: max(whole)]]
    for entry in entries[again.done :]:
        again.write(*entry)
    assert again.counts.records_in == len(entries)
    assert again.counts.prompt_tokens == sum(entry[3][0] for entry in entries)
    assert again.counts.reused_tokens == sum(entry[3][2] for entry in entries)
    assert again.counts.cached_calls == sum(entry[3][3] for entry in entries)
    again.finish({})
    again.close()
    assert read_jsonl(out) == [record for entry in entries for record in entry[1]]
    skipped = [record for entry in entries for record in entry[2]]
    assert (read_jsonl(again.skipped) if again.skipped.exists() else []) == skipped
    assert not list(out.parent.glob("*.partial*"))


def test_leftovers_of_a_finished_run_are_not_resumed(tmp_path: Path) -> None:
    """A kill after the last rename leaves the unfinished run's manifest and journal."""
    out = tmp_path / "x"
    first = outputs.FileOutput(str(out), {"a": 1})
    first.write("d0", [{"r": 1}], [], (1, 1, 0, 0))
    first.close()
    first.partial.rename(out)
    again = outputs.FileOutput(str(out), {"a": 2})
    assert list(again.digests()) == []
    again.close()


def test_a_kill_between_the_last_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The skipped records are in place already, the output not yet."""
    out = tmp_path / "x"
    first = outputs.FileOutput(str(out), {"a": 1})
    first.write("d0", [{"r": 1}], [], (1, 1, 0, 0))
    first.write("d1", [], [{"x": 1}], (1, 1, 0, 0))

    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if target == out:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            first.finish({})
    first.close()
    assert read_jsonl(first.skipped) == [{"x": 1}]
    again = outputs.FileOutput(str(out), {"a": 1})
    assert list(again.digests()) == ["d0", "d1"]
    again.finish({})
    again.close()
    assert (read_jsonl(out), read_jsonl(again.skipped)) == ([{"r": 1}], [{"x": 1}])
    clean = outputs.FileOutput(str(out), {"a": 1})
    clean.finish({})
    clean.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.manifest.json"]


def test_a_run_over_a_finished_output_leaves_its_skipped_records_until_the_end(tmp_path: Path) -> None:
    out = tmp_path / "x"
    old = outputs.FileOutput(str(out), {"a": 1})
    old.write("d0", [], [{"x": 1}], (1, 1, 0, 0))
    old.finish({})
    old.close()
    new = outputs.FileOutput(str(out), {"a": 2})
    new.write("d0", [{"r": 1}], [], (1, 1, 0, 0))
    new.close()
    again = outputs.FileOutput(str(out), {"a": 2})
    assert list(again.digests()) == ["d0"]
    assert read_jsonl(again.skipped) == [{"x": 1}]  # the old output's, which is still there
    again.finish({})
    again.close()
    assert not again.skipped.exists()


def test_a_device_is_written_to_and_not_replaced(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    here("sample", prompts, "-m", tiny, *EXACT, "--limit", 2, "-o", fifo)
    assert [json.loads(line)["id"] for line in os.read(reader, 65536).splitlines()] == ["q0", "q1"]
    os.close(reader)
    assert fifo.is_fifo()
    assert [path.name for path in tmp_path.glob("fifo*")] == ["fifo"]


def test_standard_output_by_its_device_gets_the_records(prompts: str, tiny: str) -> None:
    done = cai("sample", prompts, "-m", tiny, *EXACT, "--limit", 2, "-o", "/dev/stdout")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["q0", "q1"]


def test_a_folder_as_output_is_refused_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for write in (lambda path: outputs.write_file(path, [b"{}\n"], {}), lambda path: outputs.write_text(path, "text")):
        with pytest.raises(InputError, match="is a directory; -o takes a file name"):
            write(str(tmp_path / "folder"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_two_runs_never_write_one_output(tmp_path: Path) -> None:
    one = outputs.FileOutput(str(tmp_path / "x"), {})
    with pytest.raises(CaiError, match="another run is writing it"):
        outputs.FileOutput(str(tmp_path / "x"), {})
    one.close()


def test_a_broken_manifest_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    outputs.FileOutput(str(out), {"a": 1}).close()
    Path(f"{out}.partial.manifest.json").write_text("{")
    with pytest.raises(CaiError, match="start over with --restart"):
        outputs.FileOutput(str(out), {"a": 1})
    Path(f"{out}.partial.manifest.json").write_text('{"fingerprint": {"a": 2}}')
    with pytest.raises(InputError, match=r"a \(2 before, 1 now\)"):
        outputs.FileOutput(str(out), {"a": 1})


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_a_flush_that_does_not_end_writes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    """A signal, or a disk that is full for a moment, at each of its writes."""
    entries = [(f"d{i}", [{"r": i}], [{"x": i}], (i, 1, 2, 3)) for i in range(6)]
    for moment in range(3):
        out = tmp_path / f"{kind.__name__}{moment}"
        first = outputs.FileOutput(str(out), {"a": 1})
        first.write(*entries[0])
        first.flush()
        for entry in entries[1:4]:
            first.write(*entry)
        calls = count()

        def torn(stream: Any, data: bytes, moment: int = moment, calls: Any = calls) -> None:
            last = next(calls) == moment
            stream.write(data[: len(data) // 2] if last else data)
            if last:
                raise kind

        with monkeypatch.context() as patch:
            patch.setattr(outputs, "write_all", torn)
            with pytest.raises((KeyboardInterrupt, CaiError)):
                first.flush()
        first.close()
        again = outputs.FileOutput(str(out), {"a": 1})
        for entry in entries[again.done :]:
            again.write(*entry)
        again.finish({})
        again.close()
        assert read_jsonl(out) == [{"r": i} for i in range(6)]
        assert read_jsonl(again.skipped) == [{"x": i} for i in range(6)]
