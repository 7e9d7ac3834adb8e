"""Model directories and dtypes: which type "auto" is, and where float32 is too large."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cai_cli.engines import models
from cai_cli.engines.answers import Answers
from cai_cli.errors import InputError, Skipped
from cai_cli.method.template import Template
from cai_cli.training.settings import precision


def a_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool, memory: int = 2**40) -> None:
    """Pretend that there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(models, "memory", lambda: memory)


def test_a_gpu_without_bf16_computes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, bf16=False)
    assert models.resolve_dtype("auto") is torch.float16
    assert precision("auto") == "float16"
    a_gpu(monkeypatch, bf16=True)
    assert models.resolve_dtype("auto") is torch.bfloat16
    assert precision("auto") == "bfloat16"
    assert models.resolve_dtype("float32") is torch.float32


def test_scores_are_float32_unless_memory_is_too_small(
    tiny: str, tiny_pm: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = Path(tiny), Path(tiny_pm)
    weights = sum(p.numel() for p in models_of(*folders))
    assert sum(map(models.parameters, folders)) == weights
    a_gpu(monkeypatch, bf16=True, memory=8 * weights)  # just twice what they take
    assert models.exact_dtype("auto", *folders) == "float32"
    assert not capfd.readouterr().err
    a_gpu(monkeypatch, bf16=True, memory=8 * weights - 1)
    assert models.exact_dtype("auto", *folders) == "bfloat16"
    assert "in which scores and probabilities are less exact; --dtype float32 insists" in capfd.readouterr().err
    assert models.exact_dtype("float32", *folders) == "float32"
    assert models.exact_dtype("auto", folders[0]) == "float32"


def models_of(language_model: Path, pm: Path) -> list[torch.nn.Parameter]:
    """All weights of both models, as transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    first = AutoModelForCausalLM.from_pretrained(language_model)
    second = AutoModelForSequenceClassification.from_pretrained(pm)
    return [*first.parameters(), *second.parameters()]


def _folder(tiny: str, target: Path) -> Path:
    shutil.copytree(tiny, target)
    return target


def test_pickled_weights_are_refused(tiny: str, tmp_path: Path) -> None:
    folder = _folder(tiny, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors only"):
        models.resolve(str(folder))


def test_a_pickled_adapter_is_refused(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": tiny, "peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
        models.resolve(str(tmp_path))


def test_code_in_a_model_folder_does_not_run(tiny: str, tmp_path: Path) -> None:
    folder, ran = _folder(tiny, tmp_path / "model"), tmp_path / "ran"
    (folder / "hostile.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "hostile", "auto_map": {"AutoConfig": "hostile.Config", "AutoModel": "hostile.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="trust_remote_code"):
        models.parameters(folder)
    assert not ran.exists()


def test_a_hostile_template_is_refused(tiny: str) -> None:
    for text in ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{{ 1 // 0 }}"):
        tokenizer = models.load_tokenizer(Path(tiny))
        tokenizer.chat_template = text
        with pytest.raises(Skipped, match="template refuses it"):
            Template(tokenizer).render([{"role": "user", "content": "Hi"}], complete=False)


def test_the_cache_is_private(kept_answers: Path) -> None:
    Answers("x").close()
    assert kept_answers.stat().st_mode & 0o777 == 0o600
    assert kept_answers.parent.stat().st_mode & 0o777 == 0o700
