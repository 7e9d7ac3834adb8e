"""Fixtures that every test shares: tiny models, made once a session."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cai_cli.commands.options import calm_libraries
from cai_cli.main import app
from tests import tiny as make

calm_libraries(debug=False)  # as a command does, and before transformers is imported


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny causal model's directory."""
    return make.tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_pm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny preference model's directory."""
    return make.tiny_pm(tmp_path_factory.mktemp("models") / "tiny-pm")


@dataclass
class Done:
    """What a command run in this process left: its exit code and its two streams."""

    code: int
    out: str
    err: str


class Here:
    """Runs `cai ARGS` in this process, which saves the seconds that importing torch takes."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, *args: object, code: int = 0, stdin: str | None = None) -> Done:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((stdin or "").encode())))
        self.monkeypatch.setattr(sys, "argv", ["cai", *map(str, args)])
        self.capfd.readouterr()
        fd = os.dup(1)
        try:
            app(list(map(str, args)), prog_name="cai")
            got = 0
        except SystemExit as problem:
            got = int(problem.code or 0)
        finally:
            os.dup2(fd, 1)
            os.close(fd)
        done = Done(got, *self.capfd.readouterr())
        assert done.code == code, f"exit {done.code}, not {code}:\n{done.err}"
        return done


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    """`here("sample", path, ...)` runs a command in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    handler = signal.getsignal(signal.SIGTERM)
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield Here(capfd, monkeypatch)
    signal.signal(signal.SIGTERM, handler)
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def broken_model(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model directory whose weights can't be loaded: a command that works with it has loaded none."""
    folder = tmp_path_factory.mktemp("models") / "broken"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    return str(folder)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and design that stands beside the checkout where the project is developed."""
    folder = Path(__file__).parent.parent.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"the shared data is not beside the checkout ({folder})")
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    """The real model of 135 million parameters, that `make model` brings."""
    folder = Path(__file__).parent.parent / "models" / "SmolLM2-135M-Instruct"
    if not (folder / "config.json").exists():
        pytest.skip(f"{folder} is not there: run `make model`")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A tiny model trains many times slower on two threads than on one where anything else runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
