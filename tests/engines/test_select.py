"""Which engine runs, and how much of a GPU it takes."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from cai_cli.engines import models, select
from cai_cli.errors import CaiError, InputError
from tests.conftest import Here
from tests.rows import asks, write_jsonl
from tests.tiny import TRANSFORMERS


def test_deterministic_runs_take_transformers_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "device", lambda: "cuda")
    monkeypatch.setattr(select, "vllm_problem", lambda: None)
    assert select.pick("auto") == "vllm"
    assert select.pick("auto", deterministic=True) == "transformers"
    with pytest.raises(InputError, match="--deterministic needs --engine transformers"):
        select.pick("vllm", deterministic=True)


def test_a_command_in_a_pipe_leaves_memory_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipes count only where the command reads or writes them."""
    monkeypatch.setattr(select, "os", SimpleNamespace(fstat=lambda fd: SimpleNamespace(st_mode=stat.S_IFIFO)))
    for source, target, want in [("-", "-", 0.3), ("a", "-", 0.3), ("-", "b", 0.3), ("a", "b", 0.9)]:
        assert select.gpu_memory(None, select.piped(source, target)) == want
        assert select.gpu_memory(0.5, select.piped(source, target)) == 0.5
    monkeypatch.setattr(select, "os", SimpleNamespace(fstat=lambda fd: SimpleNamespace(st_mode=stat.S_IFREG)))
    assert select.gpu_memory(None, select.piped("-", "-")) == 0.9


def test_on_a_cpu_vllm_is_for_much_work_that_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_cores", lambda: ["0", "1"])
    model = tmp_path / "model"
    model.mkdir()
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [135_000_000], "data_offsets": [0, 270_000_000]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    source = write_jsonl(tmp_path / "in.jsonl", asks(1000))
    assert select.pick_on_cpu(model, source, None, 128, False)[0] == "vllm"
    assert select.pick_on_cpu(model, source, None, 128, True)[0] == "transformers"
    assert select.pick_on_cpu(model, source, 10, 128, False)[0] == "transformers"
    assert select.pick_on_cpu(model, source, None, 0, False)[0] == "transformers"
    assert select.pick_on_cpu(model, "-", None, 128, False) == ("transformers", "the amount of work is not known")


def test_a_command_knows_the_pipe_that_it_writes_to(
    here: Here, prompts: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at the time it loads the model, when standard output is no longer file descriptor 1."""

    def refuse(setup: select.Setup) -> None:
        raise CaiError(f"given {setup.gpu_memory}")

    monkeypatch.setattr(select.Setup, "open", refuse)
    read, write = os.pipe()
    kept = os.dup(1)
    os.dup2(write, 1)
    try:
        piped = here("sample", prompts, "-m", tiny, *TRANSFORMERS, code=1).err
    finally:
        os.dup2(kept, 1)
        for fd in (read, write, kept):
            os.close(fd)
    assert "given 0.3" in piped
    assert "given 0.9" in here("sample", prompts, "-m", tiny, *TRANSFORMERS, "-o", tmp_path / "out.jsonl", code=1).err
