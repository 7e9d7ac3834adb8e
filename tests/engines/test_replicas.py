"""Several engine processes on one machine: the records are those of one, whatever dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cai_cli.engines import dispatch, models, replicas, select
from cai_cli.engines.base import Failure, Feed, Key, Request, Result, Score
from cai_cli.engines.dispatch import Dispatcher
from cai_cli.engines.select import Setup
from cai_cli.errors import CaiError, InputError
from cai_cli.pipeline import manifest
from tests import processes
from tests.conftest import Here
from tests.engine_feed import by_number, feed
from tests.processes import cai, start, wait_for_lines
from tests.rows import asks, pair, read_jsonl, write_jsonl
from tests.tiny import EXACT, ROOT, TRANSFORMERS

TWO = ("--replicas", 2)


def replicas_of(process: subprocess.Popen[str]) -> list[int]:
    """The replicas of a command, in the order in which they were started."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
@pytest.mark.parametrize("threads", ["1", pytest.param("2", marks=pytest.mark.soak)], ids=["forks", "new processes"])
def test_the_records_are_those_of_one_process_when_a_replica_is_killed(
    threads: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = processes.environment
    monkeypatch.setattr(processes, "environment", lambda: {**usual(), "OMP_NUM_THREADS": threads})
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(240, longest=60))
    command = ("sample", prompts, "-m", tiny, *EXACT, "--max-tokens", 16)
    cai(*command, "-o", tmp_path / "one")
    many, partial = (*command, *TWO, "-o", tmp_path / "two"), tmp_path / "two.partial"
    process = start(*many)
    wait_for_lines(partial, 20, process)
    pids = replicas_of(process)
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)
    wait_for_lines(partial, 60, process)
    pids += (others := replicas_of(process))
    assert len(others) == 2  # it was started again
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    wait_until_gone(pids)
    assert said.count("was lost") == 3
    assert "replica 1 of 2 was lost (killed by signal 9); the other 1 continue with its requests" in said
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    made, alone = (manifest.read(tmp_path / f"{name}.manifest.json") for name in ("two", "one"))
    assert "processes" not in made  # one machine, whose hours `cai plan run` counts once
    assert made["fingerprint"] == alone["fingerprint"]


class Fragile:
    """An engine whose process is killed by the prompt [7]."""

    context = 100

    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def run(self, requests: Feed) -> Iterator[tuple[Key, Result]]:
        for key, request in filter(None, requests):
            if list(request.ids) == [7]:
                self.fail()
            yield key, Score(0.5, 1)


def failures(engine: Dispatcher) -> list[int]:
    """Which of 40 prompts an engine gives up; closes it."""
    try:
        results = by_number(engine.run(feed([Request("score", [n], "") for n in range(40)], False)))
    finally:
        engine.close()
    return [i for i, result in enumerate(results) if isinstance(result, Failure)]


class Failing(Fragile):
    """An engine that fails at the prompt [7], as one without memory does."""

    def fail(self) -> None:
        raise RuntimeError("out of memory")


def test_an_engine_that_fails_at_its_first_request_ends_the_run() -> None:
    engine = replicas.open_replicas(Failing, [{}, {}], each=4, fork=True)
    try:
        with pytest.raises(CaiError, match="RuntimeError: out of memory"):
            list(engine.run(feed([Request("score", [7], "")], False)))
    finally:
        engine.close()


@pytest.mark.parametrize("fork", [True, pytest.param(False, marks=pytest.mark.soak)], ids=["forks", "new processes"])
@pytest.mark.parametrize("kind", [Fragile, Failing])
def test_a_request_that_ends_its_replica_is_given_up_and_the_others_are_computed(kind: type[Fragile], fork: bool) -> None:
    assert failures(replicas.open_replicas(kind, [{}, {}], each=4, fork=fork)) == [7]
    assert not multiprocessing.active_children()


class Shrinking(Fragile):
    """An engine that has a smaller context when it is opened again, as where memory is still in use."""

    def __init__(self) -> None:
        opened = Path(os.environ["TEST_OPENED"])
        self.context = 50 if opened.exists() else 100
        opened.touch()


@pytest.mark.soak
def test_a_replica_that_would_refuse_what_the_others_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEST_OPENED", str(tmp_path / "opened"))
    engine = replicas.open_replicas(Shrinking, [{}], each=4, fork=False)
    try:
        with pytest.raises(CaiError, match="no worker is left"):
            list(engine.run(feed([Request("score", [7], "")], False)))
    finally:
        engine.close()
    assert "its context of 50 is smaller than the others'" in capfd.readouterr().err


@pytest.mark.parametrize("fork", [True, pytest.param(False, marks=pytest.mark.soak)], ids=["forks", "new processes"])
def test_replicas_outlive_the_thread_that_started_them(fork: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """As those of the library's functions, which a notebook or a server calls in threads."""
    opened: list[Dispatcher] = []
    thread = threading.Thread(target=lambda: opened.append(replicas.open_replicas(Fragile, [{}, {}], each=4, fork=fork)))
    thread.start()
    thread.join()
    time.sleep(0.5)
    try:
        assert len(by_number(opened[0].run(feed([Request("score", [1], "")] * 9, False)))) == 9
    finally:
        opened[0].close()
    assert "was lost" not in capfd.readouterr().err


class Slow(Fragile):
    """An engine that answers late."""

    def run(self, requests: Feed) -> Iterator[tuple[Key, Result]]:
        for key, _ in filter(None, requests):
            time.sleep(1)
            yield key, Score(0.5, 1)


def test_a_replica_without_results_is_named_once(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SILENCE", 0.2)
    engine = replicas.open_replicas(Slow, [{}], each=4, fork=True)
    try:
        assert len(by_number(engine.run(feed([Request("score", [1], "")], False)))) == 1
    finally:
        engine.close()
    said = capfd.readouterr().err
    assert said.count("replica 1 of 1 has given no result for 0 minutes, and has 1 request") == 1


@pytest.mark.soak
@pytest.mark.parametrize("threads", ["1", "2"], ids=["forks", "new processes"])
def test_replicas_end_with_their_command(threads: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, or interrupted as by Ctrl-C."""
    usual = processes.environment
    monkeypatch.setattr(processes, "environment", lambda: {**usual(), "OMP_NUM_THREADS": threads})
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(1000, longest=60))
    command = ("sample", prompts, "-m", tiny, *EXACT, "--max-tokens", 16, *TWO, "-o", tmp_path / "out")
    for lines, number, code in (5, signal.SIGKILL, -signal.SIGKILL), (40, signal.SIGINT, 130):
        process = start(*command, new_group=True)
        wait_for_lines(tmp_path / "out.partial", lines, process)
        pids = replicas_of(process)
        assert len(pids) == 2
        os.killpg(process.pid, number)
        assert process.wait(60) == code
        wait_until_gone(pids)


def test_judges_and_preference_models_have_replicas_too(
    here: Here, tiny: str, tiny_pm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [pair(i) for i in range(12)])
    for name, command in {
        "label": ("label", pairs, "-m", tiny, *EXACT, "--few-shot", 0),
        "score": ("score", pairs, "-m", tiny_pm, *TRANSFORMERS, "--batch-size", 1),
    }.items():
        for count in (1, 2):
            begun: list[str] = []
            first = replicas.Replica.__init__

            def counted(self: Any, replica: str, *more: Any, begun: list[str] = begun, first: Any = first) -> None:
                begun.append(replica)
                first(self, replica, *more)

            with monkeypatch.context() as patch:
                patch.setattr(replicas.Replica, "__init__", counted)
                here(*command, "--replicas", count, "-o", tmp_path / f"{name}-{count}")
            assert len(begun) == (0 if count == 1 else 2)
        assert (tmp_path / f"{name}-1").read_bytes() == (tmp_path / f"{name}-2").read_bytes()


def test_a_replica_that_cannot_load_the_model_ends_the_command(here: Here, broken_model: str, prompts: str) -> None:
    said = here("sample", prompts, "-m", broken_model, *EXACT, *TWO, code=1).err
    assert "could not load the model" in said
    assert "Traceback" not in said
    assert not multiprocessing.active_children()


def test_each_replica_gets_its_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert models.gpus() == ["0", "1", "2", "3", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8932f937, 1,MIG-a,0")

    def gpus(**more: int) -> list[str]:
        return [one["CUDA_VISIBLE_DEVICES"] for one in Setup("vllm", Path("m"), "auto", **more).environments()]  # type: ignore[arg-type]

    assert gpus() == ["3", "GPU-8932f937", "1", "MIG-a", "0"]
    assert gpus(tensor_parallel=2) == ["3,GPU-8932f937", "1,MIG-a"]
    assert gpus(tensor_parallel=2, pipeline_parallel=2) == ["3,GPU-8932f937,1,MIG-a"]
    assert gpus(replicas=1) == ["3"]
    with pytest.raises(InputError, match="2 replicas of 4 GPUs would need 8, and there are 5"):
        gpus(tensor_parallel=4, replicas=2)


def test_the_parts_of_a_model_are_arguments_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    fake: Any = types.ModuleType("cai_cli.engines.vllm")
    fake.VllmEngine = fake.VllmPreferenceModel = lambda *args, **more: given.append(more)
    monkeypatch.setitem(sys.modules, "cai_cli.engines.vllm", fake)
    for preference_model in (False, True):
        setup = Setup(
            "vllm", Path("m"), "float32", preference_model, tensor_parallel=4, pipeline_parallel=2, vllm={"max_num_seqs": 8}
        )
        setup.open_one()
    parts = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "distributed_executor_backend": "mp", "max_num_seqs": 8}
    assert given == [parts, parts]
    Setup("vllm", Path("m"), "float32").open_one()
    assert given[2:] == [{}]


def test_replicas_share_the_cores_unless_the_number_of_threads_decides_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "gpus", list)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)
    setup = Setup("transformers", Path("m"), "auto")
    assert setup.count() == 1
    assert Setup("transformers", Path("m"), "auto", replicas=3).environments() == [{"OMP_NUM_THREADS": "2"}] * 3
    assert Setup("transformers", Path("m"), "float32", replicas=3, deterministic=True).environments() == [{}] * 3
    bound = Setup("vllm", Path("m"), "auto", replicas=2).environments()
    assert [one["VLLM_CPU_OMP_THREADS_BIND"] for one in bound] == ["0,1,2,3", "4,5,6,7"]


def test_each_of_a_few_cores_has_a_replica_unless_the_threads_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "gpus", list)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(select, "FEW", 4)
    cores = 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    setup, exact = Setup("transformers", Path("m"), "auto"), Setup("transformers", Path("m"), "float32", deterministic=True)
    assert (setup.count(), setup.forks, exact.count(), Setup("vllm", Path("m"), "auto").count()) == (2, True, 1, 1)
    assert not Setup("transformers", Path("m"), "float32", deterministic=True, replicas=2).forks
    cores = 16
    assert (setup.count(), setup.forks) == (1, False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert setup.count() == 1
    assert Setup("transformers", Path("m"), "float32", deterministic=True, replicas=2).forks


def test_arguments_of_vllm_are_read_as_json_or_text_and_those_of_other_flags_are_refused(here: Here, prompts: str) -> None:
    given = ["max_model_len=4096", "quantization=fp8", "--enforce-eager=true", 'hf_overrides={"a": [1]}', "x="]
    assert select.vllm_arguments(given) == {
        "max_model_len": 4096, "quantization": "fp8", "enforce_eager": True, "hf_overrides": {"a": [1]}, "x": "",
    }  # fmt: skip
    for entry, message in {
        "seed=1": "--seed sets 'seed'",
        "gpu-memory-utilization=0.5": "--gpu-memory sets 'gpu_memory_utilization'",
        "load_format=pt": "cai sets 'load_format'",
        'logits_processors=["a:B"]': "cai sets 'logits_processors'",
        "enforce_eager": "write KEY=VALUE",
        "a b=1": "write KEY=VALUE",
    }.items():
        with pytest.raises(InputError, match=message):
            select.vllm_arguments([entry])


def test_flags_of_vllm_are_refused_elsewhere(here: Here, prompts: str, broken_model: str) -> None:
    for flags in (("--tensor-parallel", 2), ("--pipeline-parallel", 2), ("--vllm", "enforce_eager=true")):
        said = here("sample", prompts, "-m", broken_model, *TRANSFORMERS, *flags, code=2).err
        assert "--tensor-parallel, --pipeline-parallel and --vllm need the vllm engine" in said
    said = here("sample", prompts, "-m", broken_model, *TRANSFORMERS, "--address", "auto", code=2).err
    assert "only --engine ray uses a cluster" in said


@pytest.mark.soak
@pytest.mark.vllm
@pytest.mark.usefixtures("needs_vllm")
def test_two_vllm_engines_of_which_one_is_killed(real: Path, tmp_path: Path) -> None:
    """The real engine and model, each replica bound to its share of the cores."""
    source = ROOT / "examples" / "red-team.jsonl"
    # it starts sooner so; and with few sequences at a time some are left when the first records are written
    eager = ("--engine", "vllm", "--dtype", "float32", "--vllm", "enforce_eager=true", "--vllm", "max_num_seqs=4")
    flags = (*eager, "--limit", 48, "--max-tokens", 48, *TWO, "-o", tmp_path / "out")
    process = start("sample", source, "-m", real, *flags)
    wait_for_lines(tmp_path / "out.partial", 4, process, seconds=600)
    pids = replicas_of(process)
    os.kill(pids[1], signal.SIGKILL)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    wait_until_gone(pids)
    assert said.count("was lost") == 1
    assert "replica 2 of 2 was lost (killed by signal 9)" in said
    made, asked = (read_jsonl(path) for path in (tmp_path / "out", source))
    assert [row["id"] for row in made] == [row["id"] for row in asked[:48]]
    assert all(row["response"].strip() for row in made)


@pytest.mark.soak
@pytest.mark.vllm
@pytest.mark.usefixtures("needs_vllm")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="binds processes to two cores")
def test_three_processes_of_vllm_share_the_layers_of_a_model(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensor parallelism, on cores in place of GPUs: three, because the model has nine heads."""
    usual = processes.environment
    eager = ("--engine", "vllm", "--dtype", "float32", "--vllm", "enforce_eager=true")
    command = ("sample", ROOT / "examples" / "red-team.jsonl", "--limit", 4, "-m", real, *eager, "--max-tokens", 8)
    for parts, cores in ((1, "0"), (3, "0|1|1")):
        monkeypatch.setattr(processes, "environment", lambda cores=cores: {**usual(), "VLLM_CPU_OMP_THREADS_BIND": cores})
        cai(*command, "--tensor-parallel", parts, "-o", tmp_path / f"{parts}")
    one, three = (read_jsonl(tmp_path / name) for name in ("1", "3"))
    assert [row["id"] for row in three] == [row["id"] for row in one]
    assert [row["meta"]["response"]["seed"] for row in three] == [row["meta"]["response"]["seed"] for row in one]
    assert sum(a["response"] == b["response"] for a, b in zip(one, three, strict=True)) >= 3  # sums differ in their last digits
    assert (
        manifest.read(tmp_path / "3.manifest.json")["fingerprint"] == manifest.read(tmp_path / "1.manifest.json")["fingerprint"]
    )
