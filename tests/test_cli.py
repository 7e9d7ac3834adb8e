"""The real program as a process: pipes, signals, full disks, completion, start-up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_stage import asks
from tests.tiny import ROOT, cai, environment, read_jsonl, write_jsonl

CAI = f"{sys.executable} -m cai_cli.main"
EXACT = "--engine transformers --deterministic --max-tokens 8"


def shell(script: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a bash script that may say `cai`; asserts its exit code."""
    script = f'set -o pipefail; cai() {{ {CAI} "$@"; }}; {script}'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"exit {done.returncode}, not {code}:\n{done.stderr}"
    return done


def start(*args: object, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cai_cli.main", *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload, no-any-return]


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    """Wait until a file has this many lines, or the process has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.01)
    raise AssertionError(
        f"{path} has no {lines} lines: {process.stderr and process.poll() is not None and process.stderr.read()}"
    )


def test_three_commands_in_a_pipe_equal_three_files(tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(5))
    piped = shell(
        f"cat {prompts} | cai sample - -m {tiny} {EXACT} | cai critique - -m {tiny} {EXACT} | cai revise - -m {tiny} {EXACT}"
    ).stdout
    rows = [json.loads(line) for line in piped.splitlines()]  # nothing but records stands on standard output
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(5)]
    assert all(set(row["rounds"][0]) == {"principle", "critique", "revision", "flags", "meta"} for row in rows)
    again = shell(
        f"cd {tmp_path}; cai sample p.jsonl -m {tiny} {EXACT} -o r && cai critique r -m {tiny} {EXACT} -o c && cai revise c -m {tiny} {EXACT}"
    ).stdout
    assert again == piped


def test_a_killed_run_goes_on_and_ends_the_same(tiny: str, tmp_path: Path) -> None:
    """A real SIGKILL in the middle, a real SIGTERM after it, then the end: byte for byte an undisturbed run."""
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(120, longest=60))
    command = [
        "sample",
        prompts,
        "-m",
        tiny,
        "--engine",
        "transformers",
        "--deterministic",
        "--max-tokens",
        16,
        "-o",
        tmp_path / "out",
    ]
    partial = tmp_path / "out.partial"

    first = start(*command)
    wait_for_lines(partial, 10, first)
    first.kill()
    first.wait()
    assert not (tmp_path / "out").exists()
    after_kill = partial.read_bytes().count(b"\n")
    assert 10 <= after_kill < 100

    second = start(*command)
    wait_for_lines(partial, after_kill + 10, second)
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 130
    message = second.stderr.read() if second.stderr else ""
    assert "the same command goes on from there" in message
    assert "Traceback" not in message

    cai(*command)
    cai(*command[:-1], tmp_path / "undisturbed")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert [row["id"] for row in read_jsonl(tmp_path / "out")] == [f"q{i}" for i in range(120)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == ["out", "out.manifest.json"]


def test_a_reader_that_leaves_ends_the_writer_quietly(tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(200))
    done = shell(
        f"cai sample {prompts} -m {tiny} --engine transformers --max-tokens 8 --batch-size 1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    first, status = done.stdout.splitlines()
    assert json.loads(first)["id"] == "q0"
    assert status == "141"
    assert "Error" not in done.stderr


def test_a_full_disk_is_one_sentence_and_what_is_done_is_kept(tiny: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(60))
    done = shell(f"cai sample {prompts} -m {tiny} {EXACT} > /dev/full", code=1)
    assert "standard output: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    out = tmp_path / "out"
    run = f"cai sample {prompts} -m {tiny} {EXACT} -o {out}"
    done = shell(f"ulimit -f 8; {run}", code=1)  # files of 8 KiB at most
    assert "can't be written" in done.stderr or "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    kept = Path(f"{out}.partial").read_bytes().count(b"\n")
    assert 10 < kept < 60
    assert f"going on after {kept}" in shell(run).stderr
    shell(f"cai sample {prompts} -m {tiny} {EXACT} > {tmp_path}/whole")
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys; from cai_cli.main import main; sys.argv = ['cai', '--help']\ntry: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_command_that_fails_while_its_pipe_is_open_ends_in_order(broken_model: str) -> None:
    process = start("sample", "-", "-m", broken_model, "--engine", "transformers", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write('{"prompt": "Hello?"}\n')
    process.stdin.flush()
    assert process.wait(60) == 1
    message = process.stderr.read()
    assert "the model can't be loaded" in message
    assert "Fatal" not in message


def test_version_and_completion() -> None:
    assert cai("--version").stdout.startswith("cai 0.")
    done = subprocess.run(
        [sys.executable, "-m", "cai_cli.main"],
        env={**os.environ, "_CAI_COMPLETE": "complete_bash", "COMP_WORDS": "cai tr", "COMP_CWORD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert {"train-sft", "train-pm"} <= set(done.stdout.split())


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell_name: str) -> None:
    env = {**environment(), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cai_cli.main", "--show-completion", shell_name], env=env, capture_output=True, text=True
    )
    assert "_CAI_COMPLETE" in done.stdout
