"""Fixtures that several tests share: tiny models and files, made once per session, and a command run in this process."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from cai_cli.commands._command import calm_libraries
from cai_cli.engines import models, select
from cai_cli.engines.select import vllm_problem
from cai_cli.main import app
from cai_cli.method.tokens import Renderer
from tests import tiny as make
from tests.browser import chromium, executable
from tests.rows import asks, pair, write_jsonl

calm_libraries(debug=False)  # as a command does, and before transformers is imported
PAPER = ("CritiqueRevisionInstructions", "CritiqueRevisionFewShotPrompts", "RLMadisonInstructions", "RLMadisonFewShotPrompts",
         "RLMadisonPrecogFewShotPrompts")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the vLLM tests last: vLLM binds the threads of this process to cores, which slows every test after it."""
    items.sort(key=lambda item: item.get_closest_marker("vllm") is not None)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared examples and merged adapters go into a temporary directory; matplotlib's font cache, slow to make, stays.

    A judge's answers are not kept: tests compare runs that compute them, and count them. `kept_answers` keeps them.
    """
    os.environ.setdefault("MPLCONFIGDIR", str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "matplotlib"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["CAI_NO_CACHE"] = "1"
    select.FEW = 1  # tests look into the engine, which must be in this process


@pytest.fixture
def kept_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers are kept, in this new file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CAI_NO_CACHE")
    return tmp_path / "cache" / "cai" / "answers.sqlite"


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
    """The result of a command run in this process: its exit code and its two streams."""

    code: int
    out: str
    err: str


def in_process(*args: object) -> int:
    """Run `cai ARGS` in this process; returns its exit code."""
    fd = os.dup(1)
    try:
        app(list(map(str, args)), prog_name="cai")
        return 0
    except SystemExit as problem:
        return int(problem.code or 0)
    finally:
        os.dup2(fd, 1)
        os.close(fd)


class Here:
    """Runs `cai ARGS` in this process, which saves the seconds that importing torch takes."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, *args: object, code: int = 0, stdin: str | None = None) -> Done:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((stdin or "").encode())))
        self.monkeypatch.setattr(sys, "argv", ["cai", *map(str, args)])
        self.capfd.readouterr()
        done = Done(in_process(*args), *self.capfd.readouterr())
        assert done.code == code, f"exit {done.code}, not {code}:\n{done.err}"
        return done


@pytest.fixture
def torch_settings(one_thread: None) -> Iterator[None]:
    """Restores what a deterministic engine changes in torch, and computes on one thread."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def here(torch_settings: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    """`here("sample", path, ...)` runs a command in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("LINES", raising=False)  # pytest-xdist may set it, and rich then ignores a terminal that is dumb
    handler = signal.getsignal(signal.SIGTERM)
    yield Here(capfd, monkeypatch)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def broken_model(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model directory whose weights can't be loaded: a command that works with it has loaded no weights."""
    folder = tmp_path_factory.mktemp("models") / "broken"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    return str(folder)


def missing(reason: str, required: str) -> NoReturn:
    """Skip a test, or fail it if the environment variable `required` is "1"."""
    if os.environ.get(required) == "1":
        pytest.fail(f"{reason} ({required}=1 makes this a failure)")
    pytest.skip(f"{reason} ({required}=1 would make this a failure)")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published data beside the checkout, which is not part of the project."""
    folder = make.ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        missing(
            f"needs the published data (hh-rlhf, the paper's files) in {folder}/data, and it is not there", "CAI_REQUIRE_SHARED"
        )
    return folder


@pytest.fixture(scope="session")
def paper(shared: Path) -> list[str]:
    """The paper's published files: principles and few-shot examples."""
    return [str(shared / "data" / "paper" / f"{name}.json") for name in PAPER]


@pytest.fixture(scope="session")
def needs_vllm() -> None:
    """Skip where vLLM can't run."""
    if problem := vllm_problem():
        missing(problem, "CAI_REQUIRE_VLLM")


@pytest.fixture(scope="session")
def needs_ray() -> None:
    """Skip where Ray is not installed."""
    if find_spec("ray") is None:
        missing("Ray is not installed; install the extra `ray`", "CAI_REQUIRE_RAY")


@pytest.fixture(scope="session")
def real() -> Path:
    """The real model of 135 million parameters, that `make model` fetches."""
    folder = make.ROOT / "models" / "SmolLM2-135M-Instruct"
    if not (folder / "config.json").exists():
        pytest.skip(f"{folder} is not there: run `make model`")
    return folder


@pytest.fixture(scope="session")
def renderer(tiny: str) -> Renderer:
    """Turns prompts into the tiny model's tokens."""
    return Renderer(models.load_tokenizer(Path(tiny)))


@pytest.fixture(scope="session")
def real_renderer(real: Path) -> Renderer:
    """Turns prompts into the real model's tokens."""
    return Renderer(models.load_tokenizer(real))


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    """A file of twelve prompts, which a test may change."""
    return write_jsonl(tmp_path / "prompts.jsonl", asks(12))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of twelve pairs of answers."""
    return write_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", [pair(i) for i in range(12)])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: beside another process, a tiny model trains many times slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real browser; see `tests.browser`."""
    if executable() is None:
        missing("no Chromium is installed; on Debian: apt-get install chromium", "CAI_REQUIRE_BROWSER")
    with chromium() as found:
        yield found
