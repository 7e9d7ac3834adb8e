"""An adapter's directory as a model: merged into its base once, and then the same as the merged model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cai_cli.engines import adapters, models
from cai_cli.errors import InputError
from tests.conftest import Here
from tests.rows import asks, preferences, read_jsonl, revisions, write_jsonl
from tests.tiny import EXACT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cai" / "merged"


def test_every_command_takes_an_adapter_that_cai_trained(here: Here, tiny: str, cache: Path, tmp_path: Path) -> None:
    """What the adapter gives is what the model gives that the same training merged."""
    answers, pairs = write_jsonl(tmp_path / "a.jsonl", revisions(8)), write_jsonl(tmp_path / "b.jsonl", preferences(8))
    asked = write_jsonl(tmp_path / "p.jsonl", asks(6))
    for step, source, command, given in [
        ("train-sft", answers, "sample", (asked, *EXACT)),
        ("train-pm", pairs, "score", (pairs,)),
    ]:
        common = (source, "-m", tiny, "--lora", "--lr", "0.05", "--steps", 3, "--dtype", "float32", "--save-dtype", "float32")
        here(step, *common, "--eval-fraction", 0.3, "-o", tmp_path / "whole" / step)
        trained = here(step, *common, "--eval-fraction", 0.3, "--keep-adapter", "-o", tmp_path / step)
        assert not (tmp_path / step / "config.json").exists()
        first = here(command, *given, "-m", tmp_path / step, "-o", tmp_path / f"{step}.jsonl").err
        # the table of the held-out pairs has merged the adapter already
        assert ("is an adapter; merging it into" in trained.err) == (step == "train-pm")
        assert ("is an adapter; merging it into" in first) == (step == "train-sft")
        here(command, *given, "-m", tmp_path / "whole" / step, "-o", tmp_path / f"{step}-whole.jsonl")
        rows, whole = (read_jsonl(tmp_path / f"{step}{end}.jsonl") for end in ("", "-whole"))
        for row, other in zip(rows, whole, strict=True):
            assert row.pop("scores", {}) == pytest.approx(other.pop("scores", {}), abs=1e-5)
        assert rows == whole
    here("sample", asked, *EXACT, "-m", tiny, "-o", tmp_path / "base.jsonl")
    assert read_jsonl(tmp_path / "base.jsonl") != read_jsonl(tmp_path / "train-sft.jsonl")
    more = ("--lora", "--keep-adapter", "--steps", 1)
    again = here("train-sft", answers, "-m", tmp_path / "train-sft", *more, "-o", tmp_path / "more")
    assert "merging it" not in again.err
    # an adapter that was trained on an adapter does not need the merged model, which may be deleted
    assert json.loads((tmp_path / "more/adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tmp_path / "train-sft"
    )
    adapters.release()
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2
    assert "a preference model, not a language model" in here("sample", asked, "-m", tmp_path / "train-pm", code=2).err


def adapter(folder: Path, tiny: str, base: str) -> Path:
    """An untrained adapter of the tiny model that names `base` as its base model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny)
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(folder))
    saved = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**saved, "base_model_name_or_path": base}))
    return folder


def test_the_base_model_is_found_or_asked_for(tiny: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    beside = models.resolve(str(adapter(tmp_path / "one", tiny, "../base")))  # from the adapter's directory
    assert models.resolve(str(tmp_path / "one")) == beside
    assert models.load_tokenizer(beside).chat_template  # the base's, because the adapter has none
    changed = tmp_path / "base" / "config.json"
    changed.write_text(changed.read_text() + "\n")
    assert models.resolve(str(tmp_path / "one")) != beside  # of another base
    monkeypatch.chdir(tmp_path)
    assert models.resolve(str(adapter(tmp_path / "two", tiny, "base"))).is_dir()  # as typed
    with pytest.raises(InputError, match="an adapter whose base model 'someone/gone' is not here; download it"):
        models.resolve(str(adapter(tmp_path / "three", tiny, "someone/gone")))
    assert not list(cache.glob("partial-*"))


def test_merged_models_that_nobody_uses_make_room(
    tiny: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "KEPT", 2)
    used: dict[Path, Any] = {}
    monkeypatch.setattr(adapters, "_used", used)
    made = []
    for i in range(4):
        made.append(models.resolve(str(adapter(tmp_path / str(i), tiny, tiny))))
        if i > 0:  # the first one stays in use
            used.pop(made[i]).close()
    assert [folder.exists() for folder in made] == [True, False, True, True]
    again = models.resolve(str(tmp_path / "1"))
    assert again == made[1]
    assert (again / "model.safetensors").exists()
    assert [folder.exists() for folder in made] == [True, True, False, True]
