"""A power loss at any moment: what has its final name is complete, and the same command finishes the rest.

The output lies on a file system that loses what was not flushed (`tests.losing_disk`). The run is killed there, the file system
unmounted, and the command repeated on what is left.

    CAI_POWER_LOSSES=40 pytest -m soak tests/test_power_loss.py
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from tests.killing import TRAINERS, Killer, Order, killer
from tests.processes import count_lines, environment
from tests.rows import asks, write_jsonl
from tests.test_kills import records
from tests.tiny import EXACT, ROOT
from tests.training.test_killed import SHORT, arguments, result

LOSSES = int(os.environ.get("CAI_POWER_LOSSES", 2))


@contextmanager
def losing(folder: Path, seed: int) -> Iterator[Path]:
    """A new file system, mounted in `folder`/disk until the end; then `folder`/kept holds what is left of it."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.losing_disk", str(disk), str(folder / "kept"), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not disk.is_mount():
            time.sleep(0.01)
        if process.returncode is not None:
            errors = process.stderr.read() if process.stderr else ""
            pytest.skip(f"no file system of its own can be mounted here (fuse3, mfusepy and /dev/fuse): {errors.strip()[-200:]}")
        try:
            yield disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def files(out: Path) -> list[bytes]:
    """The output and its skipped records."""
    return [path.read_bytes() if path.exists() else b"" for path in (out, Path(f"{out}.skipped.jsonl"))]


@pytest.fixture(scope="module")
def kill() -> Iterator[Killer]:
    with killer(TEST_WINDOW="2") as found:  # so that records wait on disk for one before them
        yield found


def test_a_power_loss_at_any_moment_loses_no_finished_file(kill: Killer, tiny: str, tmp_path: Path) -> None:
    """A step and `cai join`, killed before an operation on their files, or finished: then the loss comes right after the end."""
    draw, log = random.Random(1), str(tmp_path / "log")
    rows = [{**row, "prompt": "q7 " * 1500} if i in (2, 9) else row for i, row in enumerate(asks(16))]
    source = write_jsonl(tmp_path / "in.jsonl", records("sample --turns", rows))

    def commands(folder: Path) -> list[list[str]]:
        out = folder / "out.jsonl"
        step = ["sample", source, "-m", tiny, *EXACT, "--turns", "--max-tokens", "8", "--shard", "1/1", "-o", str(out)]
        return [step, ["join", str(out), "-o", str(folder / "joined.jsonl")]]

    (tmp_path / "whole").mkdir()
    for command in commands(tmp_path / "whole"):
        assert kill(Order(command, log)).code == 0, Path(log).read_text()
    expected = files(tmp_path / "whole" / "out.jsonl")
    finished, waited = 0, 0
    for number in range(LOSSES):
        with losing(tmp_path / str(number), number) as disk:
            for command in commands(disk):
                at = draw.randint(1, 150)
                code = kill(Order(command, log, operation=(command[-1], at))).code if number else kill(Order(command, log)).code
                if code:
                    assert code == -9, Path(log).read_text()
                    break
            done = [name for name in ("out.jsonl", "joined.jsonl") if (disk / name).exists()]
        for state in ("strict", "mixed"):
            folder = tmp_path / str(number) / "kept" / state
            waited += any(path.stat().st_size for path in folder.glob("*.ahead"))
            for name in ("out.jsonl", "joined.jsonl"):
                # a kill between the last rename and its flush may lose the name, but not the data
                if code == 0 and name in done:
                    assert (folder / name).exists(), (number, state, name)
                if (out := folder / name).exists():
                    finished += 1
                    assert files(out) == expected, (number, state, name)
                    made = json.loads(Path(f"{out}.manifest.json").read_text())
                    assert made["output"]["sha256"] == sha256(expected[0]).hexdigest()
            for command in commands(folder):
                assert kill(Order(command, log)).code == 0, Path(log).read_text()
                assert files(Path(command[-1])) == expected, (number, state)
    print(f"\n{LOSSES} losses of power, {finished} finished files looked at, {waited} of records that waited")
    assert finished
    assert waited or LOSSES < 20


@pytest.mark.soak
def test_a_power_loss_at_any_moment_loses_no_checkpoint(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    draw, log = random.Random(2), str(tmp_path / "log")
    command = arguments(SHORT, tiny, tiny_pm, tmp_path)
    with killer(*TRAINERS, XDG_CACHE_HOME=str(tmp_path / "cache")) as kill:
        assert kill(Order([*command, "-o", str(tmp_path / "whole")], log)).code == 0, Path(log).read_text()
        expected = result(tmp_path / "whole")
        continued = 0
        for number in range(LOSSES):
            with losing(tmp_path / str(number), number) as disk:
                out = disk / "out"
                code = kill(Order([*command, "-o", str(out)], log, operation=(str(out), draw.randint(1, 400)))).code
                assert code in (0, -9), Path(log).read_text()
                logged = count_lines(disk / "out.partial" / "metrics.jsonl")
                # a step after the checkpoint's was logged, so its mark was flushed
                sealed = any(int(path.parent.name[11:]) < logged for path in disk.glob("out.partial/checkpoints/*/complete"))
            for state in ("strict", "mixed"):
                out = tmp_path / str(number) / "kept" / state / "out"
                if (out / "manifest.json").exists():
                    assert result(out)[:2] == expected[:2], (number, state)
                ended = kill(Order([*command, "-o", str(out)], log))
                assert ended.code == 0, Path(log).read_text()
                said = Path(log).read_text()
                continued += "continuing after step" in said
                assert not sealed or "continuing after step" in said or "already done" in said, (number, state, said)
                assert result(out) == expected, (number, state)
    print(f"\n{LOSSES} losses of power, {continued} runs continued from a checkpoint")
    assert continued
