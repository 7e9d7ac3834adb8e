"""Ray actors: engines on the machines of a cluster, as one engine.

The actors are plain ones, fed by the runner like the replicas of one machine. Ray Data would need the whole list of requests in
advance, but a record's next request depends on the results of the one before (docs/design.md). An actor that is lost is started
again by Ray where there is room; until then the others compute its requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from math import ceil
from typing import Any

from cai_cli import streams
from cai_cli.engines.base import Engine, Request, Result
from cai_cli.engines.dispatch import RESTARTS, Dispatcher, Worker, WorkerLost
from cai_cli.engines.worker import EngineWorker
from cai_cli.errors import CaiError, InputError

STORE = 100 * 2**20
"""Bytes of the object store of a cluster that is started here. Requests and results are small."""
SENT = (
    "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "TORCH_CPP_LOG_LEVEL",
    "TRANSFORMERS_VERBOSITY", "VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND",
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY",
)  # fmt: skip
"""The variables of the command's environment that its actors get. Never a secret: those must be set where the cluster starts."""


class Actor:
    """An engine in a thread of a Ray worker. Errors are returned, because Ray wraps those that are raised."""

    def __init__(self, opened: Callable[[], Engine], environment: dict[str, str]) -> None:
        os.environ.update(environment)  # before torch is imported; Ray has set the number of threads itself
        import ray

        self.worker = EngineWorker(ray.get_runtime_context().was_current_actor_reconstructed)
        threading.Thread(target=self.worker.serve, args=[opened], daemon=True).start()

    async def ready(self) -> tuple[str, int | CaiError]:
        """The machine's name, and the engine's context or why it could not be opened."""
        return socket.gethostname(), await _value(self.worker.ready)

    async def ask(self, request: Request) -> Result | CaiError:
        """The result of a request, or the error that ended the engine."""
        return await _value(self.worker.submit(request))


async def _value(future: Future[Any]) -> Any:
    try:
        return await asyncio.wrap_future(future)
    except CaiError as problem:
        return problem


class RayWorker:
    """An actor, seen from the command. See `dispatch.Worker`."""

    def __init__(self, name: str, actor: Any, contexts: list[int]) -> None:
        """`contexts`: that of the run, once it is known."""
        self.name, self.actor, self.contexts, self.context = name, actor, contexts, 0

    def start(self) -> Future[Worker]:
        """This worker, once its engine is open; also after the actor was lost, once Ray has started it again."""
        started: Future[Worker] = Future()
        again = RayWorker(self.name, self.actor, self.contexts)

        def done(answer: Future[Any]) -> None:
            try:
                host, again.context = answer.result()
                if isinstance(again.context, CaiError):
                    raise CaiError(f"{self.name}, on {host}: {again.context}")
                if again.context < min(self.contexts, default=0):  # it would refuse what another one answers
                    raise CaiError(f"{self.name}, on {host}: its context of {again.context} is smaller than the others'")
                again.name = f"{self.name.partition(',')[0]}, on {host}"
                started.set_result(again)
            except CaiError as problem:
                started.set_exception(problem)
            except Exception as problem:  # Ray's: the actor cannot be started any more
                started.set_exception(WorkerLost(_first(problem)))

        self.actor.ready.options(max_task_retries=-1).remote().future().add_done_callback(done)
        return started

    def submit(self, request: Request) -> Future[Result]:
        """Begin a request. The future raises a CaiError if the engine fails, `WorkerLost` if the actor or its node is lost."""
        future: Future[Result] = Future()

        def done(answer: Future[Any]) -> None:
            try:
                found = answer.result()
            except Exception as problem:  # all of Ray's: whatever it was, the request can be computed again
                found = WorkerLost(_first(problem), self.start)
            future.set_exception(found) if isinstance(found, Exception) else future.set_result(found)

        self.actor.ask.remote(request).future().add_done_callback(done)
        return future


def _first(problem: Exception) -> str:
    """The first line of one of Ray's errors, which go on for pages."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0].rstrip(".:")


def connect(address: str) -> None:
    """Connect to a cluster; "local" starts one, which ends with this process. CaiError if that fails."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray announces this change of its own at every start
    import ray

    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE} if address == "local" else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as problem:
        raise CaiError(f"--address {address}: could not connect to Ray ({_first(problem)})") from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray sets its own


def room(each: int, replicas: int | None, asked: dict[str, float]) -> tuple[int, dict[str, float]]:
    """(workers, what each reserves) for engines of `each` GPUs. Without GPUs one per node, unless `replicas` says otherwise.

    `asked`: what each reserves besides its GPUs. InputError if no node has that.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("GPU", 0) >= 1 for node in nodes):
        needed = {"CPU": 1.0, **asked, "GPU": float(each)}
        fit = [min(int(node.get(name, 0) / amount + 1e-9) for name, amount in needed.items() if amount) for node in nodes]
        if not any(fit):
            raise InputError(f"no node of the Ray cluster has what a worker needs: {_listed(needed)}")
        return replicas or sum(fit), needed
    cpus = [int(node["CPU"]) for node in nodes if all(node.get(name, 0) >= n for name, n in ({"CPU": 1.0} | asked).items())]
    if not cpus:
        raise InputError(f"no node of the Ray cluster has what a worker needs: {_listed({'CPU': 1.0} | asked)}")
    total = replicas or len(cpus)
    return total, {"CPU": float(max(1, min(cpus) // ceil(total / len(cpus)))), **asked}


def _listed(resources: dict[str, float]) -> str:
    return ", ".join(f"{value:,.10g} {name}" for name, value in resources.items())


def _options(resources: dict[str, float]) -> dict[str, Any]:
    """Resources as the options of an actor."""
    own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    others = {name: amount for name, amount in resources.items() if name not in own}
    return {own[name]: amount for name, amount in resources.items() if name in own} | {"resources": others}


def _first_ready(starting: list[Future[Worker]]) -> list[Any]:
    """The workers that are ready first. The error of the last one if none can start; CaiError if an engine cannot be opened."""
    left = set(starting)
    while True:
        done, left = wait(left, return_when=FIRST_COMPLETED)
        failed = [problem for future in done if (problem := future.exception())]
        if ready := [future.result() for future in done if not future.exception()]:
            return ready
        if not left or isinstance(failed[0], CaiError):
            raise failed[0]


def open_ray(
    opened: Callable[[], Engine],
    address: str,
    gpus: int,
    replicas: int | None,
    each: int,
    threads: int,
    asked: dict[str, float] | None = None,
) -> Dispatcher:
    """Actors on a cluster, of which at least one is ready; the others join as there is room for them.

    `gpus`: of an actor. `each`: how many requests one has at a time. `threads`: of an actor on a CPU; 0: as many as it has CPUs.
    `asked`: what an actor reserves besides its GPUs. CaiError if the first actors cannot start.
    """
    connect(address)
    import ray

    try:
        total, resources = room(gpus, replicas, asked or {})
        environment = {name: os.environ[name] for name in SENT if name in os.environ}
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        kind = ray.remote(Actor).options(
            max_restarts=RESTARTS, max_concurrency=2 * each, scheduling_strategy="SPREAD", **_options(resources)
        )  # fmt: skip
        contexts: list[int] = []
        workers = [RayWorker(f"worker {i} of {total}", kind.remote(opened, environment), contexts) for i in range(1, total + 1)]
        starting = [worker.start() for worker in workers]
        if not wait(starting, 60, FIRST_COMPLETED).done:
            needed = _listed(resources)
            streams.warn(f"no worker has started yet; each needs {needed} on one node (`ray status` shows what is there)")
        ready = _first_ready(starting)
        contexts.append(min(worker.context for worker in ready))
        found = Dispatcher(ready, contexts[0], each, ray.shutdown)
        found.remote = True
        found.away = [future for future in starting if not future.done() or future.exception() or future.result() not in ready]
        return found
    except ValueError as problem:  # a resource that cannot be reserved so
        ray.shutdown()
        if not asked:
            raise
        raise InputError(f"--resource: {_first(problem)}") from None
    except WorkerLost as lost:
        ray.shutdown()
        raise CaiError(f"a Ray worker could not start: {lost}") from None
    except BaseException:
        ray.shutdown()
        raise
