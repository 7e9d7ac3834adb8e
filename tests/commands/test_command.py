"""What every command has: exit codes, one sentence per error, --debug, --config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Here

BAD_USE = {
    "no such input": (["sample", "nowhere.jsonl", "-m", "TINY"], "nowhere.jsonl: no such file"),
    "no such model": (["sample", "PROMPTS", "-m", "no/such/model"], "no/such/model: no such model directory"),
    "not a model": (["sample", "PROMPTS", "-m", "FOLDER"], "not a model directory (no config.json in it)"),
    "no such constitution": (["critique", "PROMPTS", "-m", "TINY", "-c", "nonesuch"], "nonesuch"),
    "output is a folder": (["sample", "PROMPTS", "-m", "TINY", "-o", "FOLDER"], "is a directory; -o takes a file name"),
    "unknown flag": (["sample", "PROMPTS", "-m", "TINY", "--frobnicate"], "--frobnicate"),
    "model missing": (["sample", "PROMPTS"], "--model"),
    "limit zero": (["sample", "PROMPTS", "-m", "TINY", "--limit", "0"], "--limit"),
    "not a preference model": (["score", "PROMPTS", "-m", "TINY"], "not a preference model"),
}


@pytest.mark.parametrize("name", BAD_USE)
def test_bad_use_is_one_sentence_and_exit_code_2(here: Here, prompts: str, tiny: str, tmp_path: Path, name: str) -> None:
    args, message = BAD_USE[name]
    (tmp_path / "folder").mkdir()
    places = {"PROMPTS": prompts, "TINY": tiny, "FOLDER": str(tmp_path / "folder")}
    done = here(*(places.get(arg, arg) for arg in args), code=2)
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert done.out == ""


def test_settings_come_from_a_file_and_flags_win(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"model: {tiny}\nmax-tokens: 3\nseed: 9\ndeterministic: true\nengine: transformers\n")
    here("sample", prompts, "--config", config, "--seed", 4, "-o", tmp_path / "out.jsonl")
    fingerprint = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["fingerprint"]
    assert (fingerprint["max_tokens"], fingerprint["seed"], fingerprint["deterministic"]) == (3, 4, True)
    config.write_text("max-tokenz: 3\n")
    assert "no flag 'max_tokenz'" in here("sample", prompts, "--config", config, code=2).err


def test_debug_shows_the_traceback_and_keeps_the_exit_code(here: Here, tiny: str) -> None:
    done = here("sample", "nowhere.jsonl", "-m", tiny, "--debug", code=2)
    assert "Traceback" in done.err
    assert "nowhere.jsonl: no such file" in done.err
