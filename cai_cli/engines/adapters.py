"""Adapters as models: an adapter is merged into its base model once, into a cache, and the result is an ordinary model.

The cache is `cai/merged` in XDG_CACHE_HOME, or in `~/.cache`. It may be deleted at any time. Only the last few models are kept.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO, Any

from cai_cli import streams
from cai_cli.data import durable

KEPT = 4
"""So many merged models are kept, the last used ones: each is as large as its base in float32."""
_used: dict[Path, IO[bytes]] = {}
"""The locks of the merged models that this process uses, held until it ends."""


def user_cache() -> Path:
    """The folder for what may be deleted at any time. If it is made here, only this user may read it: it holds texts."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cai"
    with suppress(OSError):  # whoever writes into it reports that
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def merged(name: str, adapter: Path, base: Path) -> Path:
    """The directory of the model in `base` with the adapter in `adapter` merged into it. It is made at its first use.

    `name`: what the user calls the adapter. Raises whatever peft and transformers raise.
    """
    cache = user_cache() / "merged"
    target = cache / _identity(adapter, base)
    try:
        lock = _lock(target)
    except OSError:
        if target.exists():  # in a cache that this user may only read
            return target
        raise
    while True:
        # Users share the lock, because the commands of a pipe use a model together. Its maker and its remover hold it alone.
        fcntl.flock(lock, fcntl.LOCK_SH)
        if target.exists():
            return target
        fcntl.flock(lock, fcntl.LOCK_UN)  # not every file system lets go of the shared lock by itself
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            streams.say(f"cai: {name} is an adapter; merging it into {base} (once; the result is in {target})")
            _trim(cache)
            _make(adapter, base, target)


def release() -> None:
    """Let others delete the merged models that this process has used."""
    while _used:
        _used.popitem()[1].close()


def _lock(target: Path) -> IO[bytes]:
    """The lock of a merged model, with the time of its last use."""
    if target not in _used:
        target.parent.mkdir(parents=True, exist_ok=True)
        _used[target] = open(f"{target}.lock", "a+b")  # noqa: SIM115
    os.utime(_used[target].fileno())
    return _used[target]


def _make(adapter: Path, base: Path, target: Path) -> None:
    """Merge into a folder beside `target`, and rename it when it is complete."""
    partial = Path(f"{target}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        partial.mkdir()
        merge(adapter, base, partial)
        durable.replace(partial, target)
    except BaseException:
        _used.pop(target).close()
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _trim(cache: Path) -> None:
    """Make room for one more: delete the merged models that were used longest ago, and what a killed process left of one.

    None that a process uses.
    """
    known = sorted(cache.glob("*.lock"), key=lambda path: path.stat().st_mtime, reverse=True)
    last = [path for path in known if path.with_suffix("").exists()][: KEPT - 1]
    for path in known:
        folder, partial = path.with_suffix(""), path.with_suffix(".partial")
        with path.open("a+b") as lock, suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path not in last and folder.exists():
                shutil.rmtree(partial, ignore_errors=True)
                folder.rename(partial)  # so that no part of it is taken for the whole
            shutil.rmtree(partial, ignore_errors=True)


def source(name: str, base: Path) -> str | None:
    """The absolute path of the adapter `name` if `base` is its merged model in the cache; else None.

    An adapter that is trained on `base` names this path as its base model, because the merged model may be deleted.
    """
    return os.path.abspath(name) if base.parent == user_cache() / "merged" else None


def _identity(adapter: Path, base: Path) -> str:
    """A hash of the adapter's files and of the names, sizes and times of the base's."""
    digest = sha256(str(base.resolve()).encode())
    for path in sorted(base.iterdir()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}\0".encode())
    for path in sorted(adapter.iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt") and not path.name.startswith("manifest."):
            with path.open("rb") as stream:
                digest.update(path.name.encode() + file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def merge(
    adapter: Path,
    base: Path,
    target: Path,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    trained_on: str = "preference",
) -> None:
    """Write the merged model into `target` in a dtype, with the adapter's tokenizer if it has one.

    `trained_on`: what a classifier's adapter was trained on (`models.target`).
    """
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

    classifier = PeftConfig.from_pretrained(str(adapter)).task_type == "SEQ_CLS"
    kind: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    more = {"num_labels": 1} if classifier else {}
    more |= {"trust_remote_code": trust_remote_code}
    model = kind.from_pretrained(base, dtype=getattr(torch, dtype), use_safetensors=True, **more)
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(
        adapter if (adapter / "tokenizer_config.json").exists() else base, trust_remote_code=trust_remote_code
    )
    if classifier:
        model.config.pad_token_id, model.config.cai_target = tokenizer.pad_token_id, trained_on
    elif (adapter / "generation_config.json").exists():  # the token that it was trained to end a turn with
        model.generation_config = GenerationConfig.from_pretrained(adapter)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
