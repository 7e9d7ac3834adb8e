"""The processes of one run: which one this is, what they agree on, and how they are started.

A run of several processes is started by Accelerate, or by torchrun, which is what Accelerate uses and
what starts several processes on CPUs. Every process runs the same `cai` command; only the first
writes files and speaks.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from pathlib import Path

from cai_cli import models, streams
from cai_cli.errors import CaiError, InputError

_LAUNCHES = {
    "multi-gpu": ["--multi_gpu"],
    "fsdp2": [
        "--use_fsdp",
        "--fsdp_version",
        "2",
        "--fsdp_auto_wrap_policy",
        "TRANSFORMER_BASED_WRAP",
        "--fsdp_reshard_after_forward",
        "true",
    ],
}
"""What `accelerate launch` gets for the names of --accelerate; fsdp2 shards the weights of each layer over the processes."""


def world_size() -> int:
    """Processes of the run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return streams.process == 0


def is_sharded() -> bool:
    """Whether each process holds a part of the weights alone (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")


def join() -> None:
    """Connect this process to the others of the run. Does nothing in a run of one."""
    if world_size() == 1:
        return
    from accelerate import PartialState

    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1"):
        raise InputError("cai can't save what DeepSpeed trains; shard the weights with --accelerate fsdp2 instead")
    on_cpu = models.device() == "cpu"
    PartialState(cpu=on_cpu, **({"backend": "gloo"} if on_cpu else {}))
    atexit.register(_leave)


def _leave() -> None:
    """Ends the threads that talk to the other processes: one that is still at work while Python ends can abort the process."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def wait() -> None:
    """Wait until every process of the run has come here."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def any_of(*flags: bool) -> list[bool]:
    """For each flag whether it's up in any process. Every process of the run must ask."""
    if world_size() == 1:
        return list(flags)
    import torch
    from accelerate.utils import reduce

    found = reduce(torch.tensor([float(flag) for flag in flags], device=_device()), "sum")
    return [bool(value) for value in found.tolist()]


def gather(values: list[object]) -> list[object]:
    """The values of every process in their order. Every process of the run must ask."""
    if world_size() == 1:
        return values
    from accelerate.utils import gather_object

    return list(gather_object(values))


def _device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if models.device() == "cuda" else "cpu"


def launch(accelerate: str | None, processes: int | None) -> int | None:
    """Run this process's command in several processes, if asked: their exit code, or None where there's nothing to launch.

    `accelerate` is the --accelerate of the command line. InputError where it is none.
    """
    if "RANK" in os.environ or (accelerate is None and (processes or 1) == 1):
        return None  # one of the processes already, or the only one
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")  # seconds to finish a step and save, when interrupted
    command = ["-m", "cai_cli.main", *sys.argv[1:]]
    if accelerate is None and models.device() == "cpu":
        return _torchrun(processes or 1, command)
    if accelerate in _LAUNCHES or accelerate is None:
        if models.device() == "cpu":
            raise InputError(f"--accelerate {accelerate} needs GPUs; on CPUs give --num-processes alone")
        flags = _LAUNCHES[accelerate or "multi-gpu"]
    elif Path(accelerate).is_file():
        flags = ["--config_file", accelerate]
    else:
        raise InputError(f"--accelerate {accelerate}: neither multi-gpu nor fsdp2, nor a file that `accelerate config` writes")
    if processes:
        flags = [*flags, "--num_processes", str(processes)]
    # in this process's place: its signals are the launcher's
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", *flags, *command])


def _torchrun(processes: int, command: list[str]) -> int:
    """As torchrun would, in this process, so that its report of a failed worker doesn't bury what the worker said."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()), max_restarts=0,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as problem:
        codes = {failure.exitcode for failure in problem.failures.values()}
        # where one fails, the launcher ends the others, which say that they are interrupted
        return 130 if codes <= {130, -signal.SIGTERM} else min((code for code in codes if 0 < code < 130), default=1)
    except SignalException:
        return 130
    except RuntimeError as problem:
        raise CaiError(f"the processes can't be started ({' '.join(str(problem).split())[:300]})") from None
    return 0
