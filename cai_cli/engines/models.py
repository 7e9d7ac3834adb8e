"""Model directories: find one, read its limits, load its tokenizer, choose its dtype. No weights are loaded here.

A model is a directory with safetensors and a tokenizer, or the name of one on the Hugging Face hub. A model of the hub is
downloaded, or taken from the local cache. An adapter's directory stands for its base model with the adapter merged into it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_cli import streams
from cai_cli.engines import adapters
from cai_cli.errors import CaiError, InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.py"]
"""The files of a hub model that are downloaded: no weights in other formats. Code runs only with --trust-remote-code."""
_MAX_HEADER = 100_000_000
"""Most bytes of a header that the safetensors library accepts."""
DEFAULT_CONTEXT = 2048
"""The context in tokens that is assumed if the model's configuration has none."""
planned_gpu: ContextVar[int | None] = ContextVar("planned_gpu", default=None)
"""Bytes of the GPU that `cai plan --gpu` plans for; None for this machine's device."""


def resolve(name: str, weights: bool = True) -> Path:
    """The directory of a model, from a path or a hub name. Checks it without loading the model.

    For an adapter it is the directory of the merged model, which is made at its first use (`adapters.merged`). `weights`:
    whether they are needed, and so downloaded. InputError if it is not a model directory, has no safetensors although they
    are needed, or cannot be downloaded.
    """
    path = Path(name)
    if not path.exists():
        # A name whose parent is a folder here is a mistyped path, so the hub is not asked for it.
        if name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).parent.is_dir():
            raise InputError(f"{name}: no such model directory; give a directory with safetensors, or a hub name OWNER/MODEL")
        path = _fetch(name, _WANTED if weights else [kind for kind in _WANTED if kind != "*.safetensors"])
    if not path.is_dir():
        raise InputError(f"{name}: not a model directory; give the folder that holds config.json and *.safetensors")
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        if not (path / "adapter_model.safetensors").exists():  # peft would unpickle adapter_model.bin
            raise InputError(
                f"{name}: no adapter_model.safetensors in it; cai loads safetensors only, so convert the weights first"
            )
        with loading(name):
            path = adapters.merged(name, path, _base(name, path))
    if not (path / "config.json").exists():
        raise InputError(f"{name}: not a model directory (no config.json in it)")
    if weights and not any(path.glob("*.safetensors")):
        raise InputError(f"{name}: no *.safetensors in it; cai loads safetensors only, so convert the weights first")
    return path


def _base(name: str, adapter: Path) -> Path:
    """The directory of an adapter's base model. InputError if it is not here: only what the user named is downloaded."""
    try:
        base = str(json.loads((adapter / "adapter_config.json").read_bytes())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{name}/adapter_config.json: names no base model in 'base_model_name_or_path'") from None
    for path in (Path(base), adapter / base):
        if path.is_dir() and path.resolve() != adapter.resolve():
            return resolve(str(path))
    try:
        found = _fetch(base, _WANTED, download=False)
    except InputError:
        raise InputError(
            f"{name}: an adapter whose base model '{base}' is not here; download it, or write the path of its directory into "
            f"'base_model_name_or_path' of {adapter}/adapter_config.json"
        ) from None
    return resolve(str(found))


def _fetch(name: str, wanted: list[str], download: bool = True) -> Path:
    """The directory of a hub model: in the local cache, or downloaded. InputError if it could not be downloaded."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=not download))
    except Exception as problem:  # the hub client raises many kinds; all mean that there is no model
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(f"{name}: no such directory, and it could not be downloaded from the hub ({reason})") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`. InputError if it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as problem:
        raise InputError(f"{folder}/config.json: could not read it as JSON ({problem})") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"{folder}/config.json: has no 'model_type'")
    return config


def cached_numbers(config: Any) -> int:
    """How many numbers the keys and values of one token are, in all layers."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * int(text.num_hidden_layers) * int(heads) * int(width)


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
    except (OSError, ValueError, AttributeError, RecursionError):
        return set()
    return {token for token in (named if isinstance(named, list) else [named]) if isinstance(token, int)}


def is_preference_model(folder: Path) -> bool:
    """Whether the configuration is that of a sequence classifier. InputError if it cannot be read."""
    return any("SequenceClassification" in name for name in read_config(folder).get("architectures") or [])


def target(folder: Path) -> str:
    """What a preference model was trained on: "preference", "principle" if it reads the principle (`cai train-pm --conditioned`),
    or "score" for ratings (--target score)."""
    return str(read_config(folder).get("cai_target", "preference"))


def require_language_model(folder: Path) -> None:
    """InputError if the directory holds a preference model. Loads no weights."""
    if is_preference_model(folder):
        raise InputError(f"{folder}: a preference model, not a language model; give the language model that it was trained from")


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

    return "cuda" if planned_gpu.get() or torch.cuda.is_available() else "cpu"


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    there = torch.cuda.device_count()
    return visible[:there] if visible else [str(i) for i in range(there)]


def has_bf16() -> bool:
    """Whether the GPU, or the CPU if there is none, computes in bf16 natively."""
    import torch

    if planned_gpu.get():
        return True
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16"))


def dtype_name(name: str) -> str:
    """--dtype with "auto" resolved: bfloat16 if the processor has it, else float16 on a GPU and float32 on a CPU."""
    if name != "auto":
        return name
    return "bfloat16" if has_bf16() else "float16" if device() == "cuda" else "float32"


def exact_dtype(name: str, *folders: Path) -> str:
    """--dtype with "auto" resolved for models whose scores or probabilities are the result: float32.

    In bf16 a score is wrong by tenths, even if the last norm and the head compute in float32. If the weights of all `folders`
    take more than half of the memory in float32, it is the type of `dtype_name`, with a warning.
    """
    if name != "auto" or (low := dtype_name(name)) == "float32":
        return dtype_name(name)
    need, there = 4 * sum(map(parameters, folders)), memory()
    if need <= there / 2:
        return "float32"
    streams.warn(
        f"{', '.join(map(str, folders))}: float32 weights would take {need / 2**30:.1f} of {there / 2**30:.1f} GiB of memory, so "
        f"the dtype is {low}, in which scores and probabilities are less exact; --dtype float32 insists"
    )
    return low


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of --dtype, with "auto" resolved by `dtype_name`."""
    import torch

    found: torch.dtype = getattr(torch, dtype_name(name))
    return found


def parameters(folder: Path) -> int:
    """How many weights a model directory holds, from the headers of its safetensors; without them, from the configuration."""
    if not any(folder.glob("*.safetensors")):
        import torch
        from transformers import AutoConfig, AutoModel

        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = AutoModel.from_config(config, trust_remote_code=False)
        return sum(weight.numel() for weight in model.parameters())
    total = 0
    for path in list(folder.glob("model*.safetensors")) or folder.glob("*.safetensors"):  # others are copies in another form
        with path.open("rb") as stream, loading(path):
            header = json.loads(stream.read(min(_MAX_HEADER, int.from_bytes(stream.read(8), "little"))))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def memory() -> int:
    """Bytes of the GPU's memory; without a GPU, those of the machine that each of the run's processes may use."""
    import torch

    if planned := planned_gpu.get():
        return planned
    if device() == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits()]) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def free_memory() -> int:
    """Bytes of the machine's memory that nobody holds, for each of the run's processes; `memory()` if the system does not say."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
        return min(found // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), memory())
    return memory()


def _limits() -> Iterator[int]:
    """The memory limits of this process's control groups: of a container, or of a batch system's job."""
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = Path("/sys/fs/cgroup") / next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # "max", or the root, which has no such file
                yield int((folder / "memory.max").read_text())
