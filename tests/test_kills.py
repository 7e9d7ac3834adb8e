"""Every generating command, killed at random moments again and again until it completes, on every engine.

CAI_KILLS=100 pytest -m soak tests/test_kills.py       the number of kills for each command and engine; `make test` has 3
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data.jsonl import Record
from tests.killing import Killer, Order, at_once, killer
from tests.processes import count_lines
from tests.ray_worker import forked_workers
from tests.rows import asks, preferences, read_jsonl, write_jsonl
from tests.servers import tiny_server

RECORDS = 16
LONG = {"id": "long", "prompt": "word " * 9000}
"""Longer than the model's context: every step skips it."""
OPERATIONS = 40
"""More than a run performs on its files, besides writes."""


@dataclass
class Step:
    """A command, its input and its flags."""

    row: Record
    """What each prompt's record holds besides."""
    flags: tuple[object, ...] = ()
    scores: bool = False
    """Whether it runs a preference model."""
    shards: bool = True
    """Whether it has --shard."""


TWO = {"responses": ["Yes.", "No."]}
LENGTH = ("--max-tokens", 8)
STEPS = {
    "sample": Step({}, ("-n", 2, *LENGTH)),
    "sample --turns": Step({}, ("--turns", *LENGTH)),
    "critique": Step({"response": "Hi."}, ("--few-shot", 0, *LENGTH)),
    "revise": Step({"response": "Hi."}, ("--few-shot", 0, "--from-response", "--rounds", 2, *LENGTH)),
    "label": Step(TWO, ("--few-shot", 0)),
    "label --cot": Step(TWO, ("--cot", "--few-shot", 0, "--keep-cut", *LENGTH)),
    "grade": Step({"response": "Hi."}, ("-r", "refusal")),
    "score": Step(TWO, scores=True),
    "prompts": Step({}, ("-n", 6, "--format", "hh", "--max-tokens", 24), shards=False),
    "eval choice": Step({side: [{"role": "assistant", "content": f"{side}."}] for side in ("chosen", "rejected")}, shards=False),
    "eval compare": Step({"response": "Hi."}, shards=False),
    "constitution diff": Step({"response": "Hi."}, ("--few-shot", 0, *LENGTH), shards=False),
}


@dataclass
class Engine:
    """An engine, and what runs are compared by."""

    flags: tuple[object, ...]
    scoring: tuple[object, ...] | None = None
    """The flags of a step that runs a preference model; None if the engine has none."""
    digits: int | None = None
    """The digits to which probabilities are equal; None: all, so that files are equal byte for byte."""
    modules: tuple[str, ...] = ()
    """What a process imports before it starts to fork."""
    variables: tuple[tuple[str, str], ...] = ()
    serve: Callable[[str], AbstractContextManager[tuple[object, ...]]] = lambda model: nullcontext(())
    """Starts what the engine needs, for a model; gives further flags."""
    shards: int = 0
    """How many shards a run has, which `cai join` then joins."""
    steps: tuple[str, ...] = tuple(STEPS)
    """The steps that it is tested with."""
    records: int = 40
    """How many an interrupted run has, so that it is not done before."""
    waits: bool = False
    """Whether records wait on disk for one before them."""
    mark: str | None = None
    """The marker of its tests; there is a fixture `needs_MARK`, which skips them where the engine cannot run."""


@contextmanager
def server(model: str) -> Iterator[tuple[object, ...]]:
    """A deterministic server of the model."""
    with tiny_server(model) as found:
        yield "--base-url", found.url


@contextmanager
def ray_cluster(model: str) -> Iterator[tuple[object, ...]]:
    """A Ray cluster of one node on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    from cai_cli.engines import ray as rays

    with forked_workers() as more:
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": rays.STORE, **more})
        try:
            yield "--address", found.address
        finally:
            found.shutdown()


TRANSFORMERS = ("--engine", "transformers", "--deterministic")
ALONE = ("--engine", "transformers", "--dtype", "float32", "--batch-size", 1)
EAGER = ("--engine", "vllm", "--dtype", "float32", "--vllm", "enforce_eager=true")
"""Without compilation, which takes most of a start."""
ENGINES = {
    "transformers": Engine(TRANSFORMERS, ALONE),
    "shards": Engine(TRANSFORMERS, ALONE, shards=2),
    "little window": Engine(TRANSFORMERS, variables=(("TEST_WINDOW", "2"),), steps=("sample --turns",), waits=True),
    # the others are forks, because a process of the tests has one thread
    "new processes": Engine((*TRANSFORMERS, "--replicas", 2), variables=(("OMP_NUM_THREADS", "2"),), steps=("sample", "label"), records=400),
    "replicas": Engine((*TRANSFORMERS, "--replicas", 2), (*ALONE, "--replicas", 2)),
    "server": Engine(("--engine", "server"), serve=server),
    "ray": Engine(
        ("--engine", "ray", "--deterministic", "--replicas", 2),
        ("--engine", "ray", "--dtype", "float32", "--batch-size", 1, "--replicas", 2),
        modules=("ray",), serve=ray_cluster, mark="ray",
    ),
    "vllm": Engine(
        EAGER, EAGER, digits=3, modules=("vllm",),
        variables=(("VLLM_CPU_OMP_THREADS_BIND", "0"),), mark="vllm",
    ),
}  # fmt: skip


def cases(*short_steps: str) -> Iterator[Any]:
    """Every step on every engine. The short form has these steps, on the transformers engine, and one that is sharded."""
    for engine, made in ENGINES.items():
        for step, found in STEPS.items():
            if step not in made.steps or (made.shards and not found.shards) or (found.scores and made.scoring is None):
                continue
            short = (engine == "transformers" and step in short_steps) or (engine, step) in (
                ("shards", "label"),
                ("little window", "sample --turns"),
            )
            names = [*([made.mark] if made.mark else []), *([] if short else ["soak"])]
            yield pytest.param(step, engine, marks=[getattr(pytest.mark, name) for name in names])


@pytest.fixture(scope="module")
def killers() -> Iterator[Callable[[str], Killer]]:
    """The forking process of each engine, started at its first use."""
    open_: dict[Any, tuple[Any, Killer]] = {}

    def of(name: str) -> Killer:
        made = ENGINES[name]
        if (made.modules, made.variables) not in open_:
            manager = killer(*made.modules, **dict(made.variables))
            open_[made.modules, made.variables] = manager, manager.__enter__()
        return open_[made.modules, made.variables][1]

    yield of
    for manager, _ in open_.values():
        manager.__exit__(None, None, None)


def records(step: str, rows: list[Record]) -> list[Record]:
    """The records of a step with these prompts. One with many turns takes long, so that others wait for it."""
    turns = [{"turns": [row["prompt"], *["And then?"] * (16 if i == 1 else 1)]} for i, row in enumerate(rows)]
    return [
        {**row, **STEPS[step].row, **(each if step == "sample --turns" else {})} for row, each in zip(rows, turns, strict=True)
    ]


def commands(step: str, engine: str, source: str, model: str, pm: str, out: Path, more: tuple[object, ...]) -> list[list[str]]:
    """The commands that make an output: one, or one per shard and `cai join`."""
    found, made = STEPS[step], ENGINES[engine]
    flags = (*((made.scoring or ()) if found.scores else made.flags), *more, *found.flags)
    inputs = [f"a={source}", f"b={source}"] if step == "eval compare" else [source]
    if step == "constitution diff":
        run = Path(source).with_name("run")
        run.mkdir(exist_ok=True)
        shutil.copy(source, run / "responses.jsonl")
        inputs = ["default", "non-evasive", "--run", str(run)]
    name = [word for word in step.split() if not word.startswith("--")]
    base = [*name, *inputs, "-m", pm if found.scores else model, *map(str, flags)]
    if not made.shards:
        return [[*base, "-o", str(out)]]
    parts = [out.with_name(f"part-{i}.jsonl") for i in range(1, made.shards + 1)]
    shards = [[*base, "--shard", f"{i}/{len(parts)}", "-o", str(part)] for i, part in enumerate(parts, 1)]
    return [*shards, ["join", *map(str, parts), "-o", str(out)]]


def moment(draw: random.Random, out: str, seconds: float) -> dict[str, Any]:
    """When to kill: at any time, at a moment while records are written, or before an operation on the output's files."""
    kind = draw.choices(("time", "lines", "operation"), (3, 4, 3))[0]
    if kind == "time":
        return {"after": draw.uniform(0, 1.1 * seconds)}
    if kind == "lines":
        return {"lines": (f"{out}.partial.journal", draw.randint(1, RECORDS)), "after": draw.uniform(0, 0.02)}
    return {"operation": (out, draw.randint(1, OPERATIONS))}


def compared(path: Path, digits: int | None) -> tuple[Any, ...]:
    """What must be equal of two finished outputs: the records, the skipped records, the counts and the summary."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items()}
        return (
            [rounded(each) for each in value]
            if isinstance(value, list)
            else round(value, digits)
            if isinstance(value, float)
            else value
        )

    beside = Path(f"{path}.skipped.jsonl")
    files = [each.read_bytes() if each.exists() else b"" for each in (path, beside)]
    made = json.loads(Path(f"{path}.manifest.json").read_text())
    counts = {key: made["counts"][key] for key in ("records_in", "records_out", "skipped", "prompt_tokens", "completion_tokens")}
    if digits is None:
        return (*files, counts, made["fingerprint"], made.get("summary"))
    return rounded([read_jsonl(path), len(files[1].splitlines())]), counts, made["fingerprint"]


def killed_until_done(kill: Killer, command: list[str], seconds: float, draw: random.Random, log: str) -> tuple[int, int]:
    """Run a command again after each kill until it completes; (kills, those that left records which waited on disk)."""
    kills, waited, out = 0, 0, command[-1]
    while (end := kill(Order(command, log, **moment(draw, out, seconds)))).code != 0:
        assert end.code == -signal.SIGKILL, f"{command}\n{Path(log).read_text()}"
        assert not end.left, f"left processes {end.left} after a kill: {command}"
        ahead = Path(f"{out}.partial.ahead")
        kills, waited = kills + 1, waited + (ahead.exists() and ahead.stat().st_size > 0)
        assert kills < 200, "it does not get on"
    return kills, waited


@pytest.mark.parametrize(("step", "engine"), cases(*(step for step in STEPS if " " not in step)))
def test_a_run_killed_at_any_moment_ends_as_an_undisturbed_one(
    step: str,
    engine: str,
    killers: Callable[[str], Killer],
    tiny: str,
    tiny_pm: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if mark := ENGINES[engine].mark:
        request.getfixturevalue(f"needs_{mark}")
    wanted = int(os.environ.get("CAI_KILLS", 3))
    kill, made, log = killers(engine), ENGINES[engine], str(tmp_path / "log")
    rows = records(step, [*asks(RECORDS - 1), *([] if step == "prompts" else [LONG])])
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    out, whole = tmp_path / "killed" / "out.jsonl", tmp_path / "whole" / "out.jsonl"
    kills, waited, draw = 0, 0, random.Random(f"{step} {engine}")
    with made.serve(tiny) as more:
        plain = commands(step, "transformers" if made.shards else engine, source, tiny, tiny_pm, whole, more)
        end = (killers("transformers") if made.waits else kill)(Order(plain[0], log))
        assert end.code == 0, Path(log).read_text()
        expected = compared(whole, made.digits)
        while kills < wanted or (made.waits and not waited and kills < 300):
            shutil.rmtree(out.parent, ignore_errors=True)
            for command in commands(step, engine, source, tiny, tiny_pm, out, more):
                some, there = killed_until_done(kill, command, end.seconds, draw, log)
                kills, waited = kills + some, waited + there
            assert compared(out, made.digits) == expected
            assert not [path for path in out.parent.iterdir() if path.name.startswith(".") or ".partial" in path.name]
    assert waited or not made.waits
    print(f"\n{step}, {engine}: {kills} kills" + (f", {waited} with records that waited on disk" if waited else ""))
    assert count_lines(out) == count_lines(whole) > 0


@pytest.mark.soak
def test_an_inference_killed_at_any_moment_continues(killers: Callable[[str], Killer], tiny: str, tmp_path: Path) -> None:
    """`cai constitution infer` has several stages, each with a file. The rules of a random model predict nothing, so it ends with 1."""
    kill, log, draw = killers("transformers"), str(tmp_path / "log"), random.Random("infer")
    source = write_jsonl(tmp_path / "in.jsonl", preferences(RECORDS))

    def made(out: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.iterdir() if "manifest" not in path.name}

    def command(out: Path) -> Order:
        return Order(
            ["constitution", "infer", source, "-m", tiny, *map(str, TRANSFORMERS), "--few-shot", "0", "-o", str(out)], log
        )

    whole, out, kills = tmp_path / "whole", tmp_path / "killed", 0
    seconds = kill(command(whole)).seconds
    assert "no rule predicts the choices" in Path(log).read_text()
    assert {"proposals.jsonl", "candidates.jsonl", "candidates.yaml", "votes.jsonl", "principles.jsonl"} <= made(whole).keys()
    while kills < int(os.environ.get("CAI_KILLS", 3)):
        shutil.rmtree(out, ignore_errors=True)
        while (end := kill(replace(command(out), **moment(draw, str(out), seconds) | {"lines": None}))).code == -signal.SIGKILL:
            kills += 1
        assert end.code == 1, Path(log).read_text()
        assert made(out) == made(whole)
    print(f"\nconstitution infer, transformers: {kills} kills")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("step", "engine"), cases("sample"))
def test_a_signal_ends_a_run_with_130_and_the_same_command_continues(
    step: str, engine: str, number: int, killers: Callable[[str], Killer], tiny: str, tiny_pm: str, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if mark := ENGINES[engine].mark:
        request.getfixturevalue(f"needs_{mark}")
    kill, log, out = killers(engine), str(tmp_path / "log"), tmp_path / "out.jsonl"
    source = write_jsonl(tmp_path / "in.jsonl", records(step, asks(ENGINES[engine].records)))
    with ENGINES[engine].serve(tiny) as more:
        command = commands(step, engine, source, tiny, tiny_pm, out, more)[0]
        for when in ({"after": 0.05}, {"lines": (f"{command[-1]}.partial.journal", 2), "after": 0.0}):
            end = kill(Order(command, log, **when, signal=number))
            assert (end.code, end.signalled, end.left) == (130, True, []), Path(log).read_text()
            assert end.seconds < at_once()
        assert "the same command continues from there" in Path(log).read_text()
        assert kill(Order(command, log)).code == 0
        assert "continuing after" in Path(log).read_text()
