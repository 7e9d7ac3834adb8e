"""The processes of one run: which one this is, how they are started, and how they agree.

Accelerate or torchrun starts a run of several processes. Accelerate itself uses torchrun, but does not start several
processes on CPUs. Every process runs the same `cai` command; only the first writes files and messages.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cai_cli import streams
from cai_cli.data import strict_yaml
from cai_cli.engines import models
from cai_cli.errors import CaiError, InputError

T = TypeVar("T")

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
"""Arguments of `accelerate launch` by --accelerate. fsdp2 shards the weights of each layer over the processes."""


@dataclass(frozen=True)
class Layout:
    """The processes of a run."""

    processes: int
    sharded: bool
    """Whether each process holds only a part of the weights (FSDP)."""


_LAUNCHED = "_CAI_LAUNCHED"
"""The environment variable that marks the processes that `launch` started."""


def visible_gpus() -> int:
    """The number of GPUs that this process may use. It does not start CUDA, so that CUDA_VISIBLE_DEVICES may still change.

    Without a GPU's driver it does not import torch, which takes seconds: bad input is to be reported first.
    """
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):  # NVIDIA, AMD, WSL
        return 0
    import torch

    return torch.cuda.device_count()


def world_size() -> int:
    """The number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is the first, which writes files and messages."""
    return streams.process == 0


def is_first_here() -> bool:
    """Whether this process is the first on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def is_sharded() -> bool:
    """Whether each process holds only a part of the weights (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")


def layout() -> Layout:
    """The processes of the run that this process belongs to."""
    return Layout(world_size(), is_sharded())


def planned(accelerate: str | None, processes: int | None, gpus: int) -> Layout:
    """The processes that `launch` would start on a machine with `gpus` GPUs. InputError for an unusable `accelerate`."""
    if "RANK" in os.environ:
        return layout()
    sharded = accelerate == "fsdp2"
    if accelerate and accelerate not in _LAUNCHES:
        written = _written(accelerate)
        processes, sharded = processes or written.get("num_processes"), written.get("distributed_type") == "FSDP"
    if accelerate and not processes and not gpus:
        raise InputError(f"--accelerate {accelerate}: there is no GPU here; give the number of processes with --num-processes")
    return Layout(processes or gpus or 1, sharded)


def _written(path: str) -> dict[str, Any]:
    """The file that `accelerate config` wrote. InputError if it is none."""
    try:
        found = strict_yaml.load(strict_yaml.read(path), path)
    except OSError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"--accelerate {path}: neither multi-gpu nor fsdp2, nor a file; make one with `accelerate config`")
    return found


def join() -> None:
    """Connect this process to the others of the run, if there are any. InputError for DeepSpeed."""
    if world_size() == 1:
        return
    from accelerate import PartialState

    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1"):
        raise InputError("cai cannot save a model that DeepSpeed trains; shard the weights with --accelerate fsdp2 instead")
    on_cpu = models.device() == "cpu"
    PartialState(cpu=on_cpu, **({"backend": "gloo"} if on_cpu else {}))
    atexit.register(_leave)


def _leave() -> None:
    """End the threads that talk to the other processes: a thread that still works while Python exits can abort the process."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def wait() -> None:
    """Wait until every process of the run has called this."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def any_of(*flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process. Every process of the run must call this."""
    if world_size() == 1:
        return list(flags)
    import torch
    from accelerate.utils import reduce

    found = reduce(torch.tensor([float(flag) for flag in flags], device=_device()), "sum")
    return [bool(value) for value in found.tolist()]


def gather(values: list[T]) -> list[T]:
    """The values of every process, in the order of the processes. Every process of the run must call this."""
    if world_size() == 1:
        return values
    from accelerate.utils import gather_object

    return list(gather_object(values))


def _device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if models.device() == "cuda" else "cpu"


def launch(step: str, accelerate: str | None, processes: int | None, quiet: bool = False) -> int | None:
    """Run this process's command in several processes, if asked to or if there are several GPUs.

    `accelerate` and `processes`: --accelerate and --num-processes. Returns the processes' exit code, or None if there are none
    to start. InputError for an unusable `accelerate`, or if a launcher has started this process and flags ask for more.
    """
    if "RANK" in os.environ or _LAUNCHED in os.environ:  # this is one of the processes already
        flag = "--accelerate" if accelerate else "--num-processes" if processes else None
        if flag and _LAUNCHED not in os.environ:
            raise InputError(f"{flag}: another launcher has started this process already (RANK is set); drop the flag, or it")
        return None
    gpus = visible_gpus()
    if accelerate is None and processes is None and gpus > 1:
        processes = gpus
        streams.say(f"cai {step}: training on {gpus} GPUs, one process each; --num-processes 1 uses only one", quiet)
    alone = (processes or 1) == 1 if accelerate is None else accelerate == "multi-gpu" and gpus > 0 and (processes or gpus) == 1
    if alone:
        if gpus > 1:  # with several visible, transformers would use DataParallel, in which no trainer of TRL works
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        return None
    os.environ[_LAUNCHED] = "1"
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")  # seconds to finish a step and save after an interrupt
    command = ["-m", "cai_cli.main", *sys.argv[1:]]
    if accelerate is None and models.device() == "cpu":
        return _torchrun(processes or 1, command)
    if accelerate in _LAUNCHES or accelerate is None:
        if models.device() == "cpu":
            raise InputError(f"--accelerate {accelerate} needs GPUs; on CPUs give only --num-processes")
        processes = processes or gpus
        if processes > gpus:
            raise InputError(
                f"--num-processes {processes}: there is a process per GPU, and only {streams.plural(gpus, 'GPU')} here"
            )
        flags = _LAUNCHES[accelerate or "multi-gpu"]
    else:
        _written(accelerate)
        flags = ["--config_file", accelerate]
    if processes:
        flags = [*flags, "--num_processes", str(processes)]
    # the launcher replaces this process, so signals reach the launcher
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", *flags, *command])


def _torchrun(processes: int, command: list[str]) -> int:
    """Do what torchrun does, in this process: its report of a failed worker would hide the worker's own message."""
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
        # if one fails, the launcher ends the others, which report an interrupt
        return 130 if codes <= {130, -signal.SIGTERM} else min((code for code in codes if 0 < code < 130), default=1)
    except SignalException:
        return 130
    except RuntimeError as problem:
        raise CaiError(f"could not start the processes ({' '.join(str(problem).split())[:300]})") from None
    return 0
