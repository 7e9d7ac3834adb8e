"""Engines as actors of a Ray cluster: two nodes on this machine, of which one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cai_cli.engines import ray as rays
from cai_cli.engines.select import Setup, _sizes, pick, resources
from cai_cli.errors import CaiError, InputError
from cai_cli.pipeline import manifest
from tests.conftest import Here
from tests.engines.test_replicas import Failing, failures
from tests.processes import start, wait_for_lines
from tests.rows import asks, write_jsonl
from tests.tiny import EXACT

RAY = ("--engine", "ray", "--deterministic")


@pytest.fixture
def cluster(needs_ray: None) -> Iterator[Any]:
    """A cluster of one node with one CPU, to which the test adds others."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": rays.STORE})
    yield found
    found.shutdown()


@pytest.mark.soak
def test_a_node_that_is_killed_costs_no_record(here: Here, cluster: Any, tiny: str, tmp_path: Path) -> None:
    """Each node has an actor. The bytes are those of one process without Ray, and the manifest's fingerprint too."""
    second = cluster.add_node(num_cpus=1, object_store_memory=rays.STORE)
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(600, longest=60))
    command = ("sample", prompts, "-m", tiny, "--max-tokens", 16)
    here(*command, *EXACT, "--max-tokens", 16, "-o", tmp_path / "one")
    process = start(*command, *RAY, "--address", cluster.address, "-o", tmp_path / "two", stdout=subprocess.PIPE)
    wait_for_lines(tmp_path / "two.partial", 20, process, seconds=300)
    cluster.remove_node(second, allow_graceful=False)
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert out == ""
    assert said.count("was lost") == 1
    assert "the other 1 continue with its requests" in said
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    made, alone = (manifest.read(tmp_path / f"{name}.manifest.json") for name in ("two", "one"))
    assert made["processes"] == 2
    assert made["fingerprint"] == alone["fingerprint"]


@pytest.mark.soak
def test_an_actor_that_is_lost_is_started_again_and_a_cluster_of_the_command_ends_with_it(
    here: Here, needs_ray: None, tiny: str, tmp_path: Path
) -> None:
    """The command itself is killed first, then its only actor."""
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(200, longest=60))
    command = ("sample", prompts, "-m", tiny, "--max-tokens", 16)
    here(*command, *EXACT, "--max-tokens", 16, "-o", tmp_path / "one")
    many = (*command, *RAY, "--replicas", 1, "--resource", "CPU=1", "--resource", "memory=1000000", "-o", tmp_path / "two")
    first = start(*many)
    wait_for_lines(tmp_path / "two.partial", 5, first, seconds=300)
    assert processes("raylet/raylet")
    first.kill()
    first.wait()
    until = time.monotonic() + 60
    while left := processes("raylet/raylet") + processes("ray::Actor"):
        assert time.monotonic() < until, left
        time.sleep(0.1)
    second = start(*many)
    wait_for_lines(tmp_path / "two.partial", 60, second, seconds=300)
    [actor] = processes("ray::Actor")
    os.kill(actor, signal.SIGKILL)
    _, said = second.communicate(timeout=600)
    assert second.returncode == 0, said
    assert said.count("was lost") == 1
    assert "waiting until another has started" in said
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()


@pytest.mark.soak
def test_a_request_that_ends_its_actor_is_given_up_and_the_others_are_computed(needs_ray: None) -> None:
    assert failures(rays.open_ray(Failing, "local", gpus=0, replicas=1, each=4, threads=1)) == [7]


def processes(name: str) -> list[int]:
    """The processes whose command begins with, or names, `name`."""
    return [int(pid) for pid in subprocess.run(["pgrep", "-f", name], capture_output=True, text=True).stdout.split()]


def test_a_cluster_that_is_not_there_is_named(here: Here, needs_ray: None, tiny: str, prompts: str) -> None:
    said = here("sample", prompts, "-m", tiny, *RAY, "--address", "nowhere", "--max-tokens", 4, code=1).err
    assert "--address nowhere: could not connect to Ray" in said


def test_a_worker_takes_its_gpus_from_one_node_or_shares_the_cpus(monkeypatch: pytest.MonkeyPatch, needs_ray: None) -> None:
    import ray

    nodes: list[dict[str, float]] = [{"CPU": 8}, {"CPU": 64, "GPU": 8}, {"CPU": 64, "GPU": 3}]
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    assert rays.room(1, None, {}) == (11, {"CPU": 1, "GPU": 1})
    assert rays.room(2, None, {}) == (5, {"CPU": 1, "GPU": 2})
    assert rays.room(4, 1, {}) == (1, {"CPU": 1, "GPU": 4})
    assert rays.room(1, None, {"CPU": 32}) == (4, {"CPU": 32, "GPU": 1})
    with pytest.raises(InputError, match="no node of the Ray cluster has what a worker needs: 1 CPU, 16 GPU"):
        rays.room(16, None, {})
    with pytest.raises(InputError, match="needs: 1 CPU, 1 TPU, 1 GPU"):
        rays.room(1, None, {"TPU": 1})
    nodes = [{"CPU": 8}, {"CPU": 4}, {"CPU": 0}]
    assert rays.room(1, None, {}) == (2, {"CPU": 4})
    assert rays.room(1, 4, {}) == (4, {"CPU": 2})
    assert rays.room(1, None, {"CPU": 6}) == (1, {"CPU": 6})


def test_what_a_worker_reserves(here: Here, tiny: str, prompts: str) -> None:
    assert resources(["CPU=8", "memory=16000000000", "accelerator_type:A100=0.01"]) == {
        "CPU": 8, "memory": 16e9, "accelerator_type:A100": 0.01,
    }  # fmt: skip
    for wrong in ("CPU", "CPU=", "=1", "CPU=0", "CPU=-1", "CPU=many", "CPU=1e999"):
        with pytest.raises(InputError, match="write NAME=N"):
            resources([wrong])
    with pytest.raises(InputError, match="--tensor-parallel"):
        resources(["GPU=1"])
    said = here("sample", prompts, "-m", tiny, "--resource", "CPU=1", "--max-tokens", 4, code=2).err
    assert "--resource: only --engine ray uses a cluster" in said


def test_a_node_without_the_commands_model_is_refused(tiny: str, tmp_path: Path) -> None:
    setup = Setup("transformers", Path(tiny), "float32", name=tiny, ray="auto")
    with pytest.raises(CaiError, match="not the model that the command read; every node needs the same files"):
        setup.open_on_node({**_sizes(Path(tiny)), "model.safetensors": 1})
    absent = Setup("transformers", tmp_path / "absent", "float32", name=str(tmp_path / "absent"))
    with pytest.raises(CaiError, match="no such model directory"):
        absent.open_on_node({})


def test_ray_runs_the_engine_that_is_installed_whatever_this_machines_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"ray", "vllm"}
    monkeypatch.setattr("cai_cli.engines.select.util.find_spec", lambda name: name in there or None)
    assert pick("ray") == "vllm"
    assert pick("ray", deterministic=True) == "transformers"
    there.remove("vllm")
    assert pick("ray") == "transformers"
    there.remove("ray")
    with pytest.raises(InputError, match="install the extra `ray`"):
        pick("ray")
