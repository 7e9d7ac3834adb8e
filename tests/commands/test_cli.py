"""The program as a process: pipes, signals, full disks, help, completion."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Here
from tests.processes import CAI, cai, count_lines, environment, shell, start, wait_for_lines
from tests.rows import asks, read_jsonl, write_jsonl
from tests.tiny import EXACT, TRANSFORMERS

FLAGS = " ".join(EXACT)


def test_three_commands_in_a_pipe_equal_three_files(here: Here, tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(5))
    piped = shell(
        f"cat {prompts} | cai sample - -m {tiny} {FLAGS} | cai critique - -m {tiny} {FLAGS} | cai revise - -m {tiny} {FLAGS}"
    ).stdout
    rows = [json.loads(line) for line in piped.splitlines()]  # standard output holds records alone
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(5)]
    assert all(set(row["rounds"][0]) == {"principle", "critique", "revision", "flags", "meta"} for row in rows)
    made = prompts
    for command in ("sample", "critique", "revise"):
        here(command, made, "-m", tiny, *FLAGS.split(), "-o", tmp_path / command)
        made = str(tmp_path / command)
    assert Path(made).read_text() == piped


@pytest.mark.soak
def test_a_killed_run_resumes_and_ends_the_same(here: Here, tiny: str, tmp_path: Path) -> None:
    """A real SIGKILL in the middle, a real SIGTERM after it, then the end: the bytes are those of an undisturbed run."""
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(120, longest=60))
    command = ("sample", prompts, "-m", tiny, *EXACT, "--max-tokens", 16, "-o", tmp_path / "out")
    partial, journal = tmp_path / "out.partial", tmp_path / "out.partial.journal"

    first = start(*command)
    wait_for_lines(partial, 10, first)
    first.kill()
    first.wait()
    assert not (tmp_path / "out").exists()
    after_kill, finished = count_lines(partial), count_lines(journal)
    assert 10 <= after_kill < 100

    second = start(*command)
    wait_for_lines(partial, after_kill + 10, second)
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 130
    message = second.stderr.read() if second.stderr else ""
    assert f"continuing after {finished} finished records" in message
    assert "the same command continues from there" in message
    assert "Traceback" not in message

    assert count_lines(journal) >= finished + 9
    assert f"continuing after {count_lines(journal)} finished records" in cai(*command).stderr
    here(*command[:-1], tmp_path / "undisturbed")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert [row["id"] for row in read_jsonl(tmp_path / "out")] == [f"q{i}" for i in range(120)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == ["out", "out.manifest.json"]


def test_a_closed_pipe_ends_the_writer_quietly(tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(200))
    done = shell(
        f"cai sample {prompts} -m {tiny} --engine transformers --max-tokens 8 --batch-size 1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    first, status = done.stdout.splitlines()
    assert json.loads(first)["id"] == "q0"
    assert status == "141"
    assert "Error" not in done.stderr


@pytest.mark.soak
def test_a_full_disk_is_one_sentence_and_finished_work_is_kept(here: Here, tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(60))
    done = shell(f"cai sample {prompts} -m {tiny} {FLAGS} > /dev/full", code=1)
    assert "standard output: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    out = tmp_path / "out"
    run = f"cai sample {prompts} -m {tiny} {FLAGS} -o {out}"
    done = shell(f"ulimit -f 8; {run}", code=1)  # files of 8 KiB at most
    assert "could not be written" in done.stderr or "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    kept = count_lines(Path(f"{out}.partial"))
    assert 10 < kept < 60
    assert f"continuing after {kept}" in shell(run).stderr
    here("sample", prompts, "-m", tiny, *FLAGS.split(), "-o", tmp_path / "whole")
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_help_imports_no_torch() -> None:
    code = "import sys; from cai_cli.main import main; sys.argv = ['cai', '--help']\ntry: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_command_that_fails_while_its_pipe_is_open_ends_cleanly(broken_model: str) -> None:
    process = start("sample", "-", "-m", broken_model, *TRANSFORMERS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write('{"prompt": "Hello?"}\n')
    process.stdin.flush()
    assert process.wait(60) == 1
    message = process.stderr.read()
    assert "could not load the model" in message
    assert "Fatal" not in message


def test_version_and_completion() -> None:
    assert cai("--version").stdout.startswith("cai 0.")
    done = subprocess.run(
        CAI,
        env={**os.environ, "_CAI_COMPLETE": "complete_bash", "COMP_WORDS": "cai tr", "COMP_CWORD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert {"train-sft", "train-pm"} <= set(done.stdout.split())


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell_name: str) -> None:
    env = {**environment(), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([*CAI, "--show-completion", shell_name], env=env, capture_output=True, text=True)
    assert "_CAI_COMPLETE" in done.stdout
