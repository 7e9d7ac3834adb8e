"""Model directories: find one, read its limits, load its tokenizer. No weights are loaded here.

A model is a directory with safetensors and a tokenizer, or the name of one on the Hugging Face hub. A model of the hub is
downloaded, or taken from the local cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_cli.errors import CaiError, InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.py"]
"""The files of a hub model that are downloaded: no weights in other formats. Code runs only with --trust-remote-code."""
DEFAULT_CONTEXT = 2048
"""The context in tokens that is assumed if the model's configuration has none."""


def resolve(name: str) -> Path:
    """The directory of a model, from a path or a hub name. Checks it without loading the model.

    InputError if it is not a model directory, has no safetensors, or cannot be downloaded.
    """
    path = Path(name)
    if not path.exists():
        # A name whose parent is a folder here is a mistyped path, so the hub is not asked for it.
        if name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).parent.is_dir():
            raise InputError(f"{name}: no such model directory; give a directory with safetensors, or a hub name OWNER/MODEL")
        path = _fetch(name)
    if not path.is_dir():
        raise InputError(f"{name}: not a model directory; give the folder that holds config.json and *.safetensors")
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise InputError(f"{name}: is an adapter, not a whole model; merge it into its base model first")
    if not (path / "config.json").exists():
        raise InputError(f"{name}: not a model directory (no config.json in it)")
    if not any(path.glob("*.safetensors")):
        raise InputError(f"{name}: no *.safetensors in it; cai loads safetensors only, so convert the weights first")
    return path


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except Exception as problem:  # the hub client raises many kinds; all mean that there is no model
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(f"{name}: no such directory, and it could not be downloaded from the hub ({reason})") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`. InputError if it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as problem:
        raise InputError(f"{folder}/config.json: could not read it as JSON ({problem})") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"{folder}/config.json: has no 'model_type'")
    return config


def context_length(folder: Path) -> int:
    """The largest number of tokens that the model takes, prompt and completion together."""
    config = read_config(folder)
    for part in (config, config.get("text_config") or {}):
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if isinstance(part.get(key), int) and part[key] > 0:
                return part[key]
    return DEFAULT_CONTEXT


def generation_ends(folder: Path) -> set[int]:
    """The tokens that end a text by the model's `generation_config.json`. Empty if there are none."""
    try:
        named = json.loads((folder / "generation_config.json").read_bytes()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return set()
    return {token for token in (named if isinstance(named, list) else [named]) if isinstance(token, int)}


def is_preference_model(folder: Path) -> bool:
    """Whether the configuration is that of a sequence classifier. InputError if it cannot be read."""
    return any("SequenceClassification" in name for name in read_config(folder).get("architectures") or [])


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The directory's tokenizer. InputError if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as problem:
        raise InputError(f"{folder}: no usable tokenizer ({str(problem).splitlines()[0]})") from None


@contextmanager
def loading(folder: str | Path) -> Iterator[None]:
    """Report any failure to load weights as a CaiError. transformers, safetensors and torch raise many kinds of exceptions."""
    try:
        yield
    except CaiError:
        raise
    except Exception as problem:
        raise CaiError(f"{folder}: could not load the model ({' '.join(str(problem).split())[:300]})") from problem


def share_cores() -> None:
    """Let OpenMP's threads sleep while they wait, because the command may be part of a pipe. Call it before importing torch.

    By default they spin. A single command is then 7% faster, but two on the same cores take eight times as long, not twice.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def device() -> str:
    """Where to run: "cuda" if there is a usable GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bf16() -> bool:
    """Whether the GPU, or the CPU if there is none, computes in bf16 natively."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16"))


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of --dtype. "auto" is bf16 if the processor has it, else float32."""
    import torch

    if name == "auto":
        return torch.bfloat16 if has_bf16() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
