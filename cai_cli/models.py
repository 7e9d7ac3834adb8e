"""Model directories: find one, read its limits, load its tokenizer. No weights are loaded here.

A model is a directory of safetensors with its tokenizer, or the name of one on the Hugging Face
hub, which is fetched (or taken from the cache) because the user named it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_cli.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.py"]
"""What is fetched of a hub model: never weights in other formats. Code is run only with --trust-remote-code."""
DEFAULT_CONTEXT = 2048
"""Context assumed of a model whose configuration names none, in tokens."""


def resolve(name: str) -> Path:
    """The directory of a model given as a path or a hub name, checked without loading it.

    InputError where it isn't a model directory, has no safetensors, or can't be fetched.
    """
    path = Path(name)
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).parent.is_dir():
            raise InputError(f"{name}: no such model directory; give a directory with safetensors, or a hub name OWNER/MODEL")
        path = _fetch(name)
    if not path.is_dir():
        raise InputError(f"{name}: not a model directory; give the folder that holds config.json and *.safetensors")
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise InputError(f"{name}: an adapter, not a whole model; merge it into its base model first")
    if not (path / "config.json").exists():
        raise InputError(f"{name}: not a model directory (no config.json in it)")
    if not any(path.glob("*.safetensors")):
        raise InputError(f"{name}: no *.safetensors in it; cai loads safetensors only, so convert the weights first")
    return path


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except Exception as problem:  # the hub client raises many kinds, all of them: not to be had
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(f"{name}: no such directory, and not to be had from the hub ({reason})") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`. InputError where it can't be read."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as problem:
        raise InputError(f"{folder}/config.json: can't be read as JSON ({problem})") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"{folder}/config.json: names no 'model_type'")
    return config


def context_length(folder: Path) -> int:
    """How many tokens the model takes, prompt and completion together."""
    config = read_config(folder)
    for part in (config, config.get("text_config") or {}):
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if isinstance(part.get(key), int) and part[key] > 0:
                return part[key]
    return DEFAULT_CONTEXT


def generation_ends(folder: Path) -> set[int]:
    """The tokens that end a text by the model's generation settings; none where it has no such settings."""
    try:
        named = json.loads((folder / "generation_config.json").read_bytes()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return set()
    return {token for token in (named if isinstance(named, list) else [named]) if isinstance(token, int)}


def is_preference_model(folder: Path) -> bool:
    """Whether the configuration is that of a sequence classifier."""
    return any("SequenceClassification" in name for name in read_config(folder).get("architectures") or [])


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The directory's tokenizer. InputError where it has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as problem:
        raise InputError(f"{folder}: no usable tokenizer ({str(problem).splitlines()[0]})") from None


def share_cores() -> None:
    """Let OpenMP's threads sleep while they wait, in a command that may stand in a pipe. Call it before torch is imported.

    They spin otherwise: alone a command is 7% faster, but two on the same cores take eight times as long, not twice.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def device() -> str:
    """Where to run: "cuda" where there is a usable GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bf16() -> bool:
    """Whether the processor that will run computes in bf16 natively."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16"))


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of --dtype: bf16 where the processor has it under "auto", else float32."""
    import torch

    if name == "auto":
        return torch.bfloat16 if has_bf16() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
