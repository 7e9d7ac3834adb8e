"""What every command has: exit codes, one sentence per error, panels in the help, --debug, --config, the environment."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import typer

from cai_cli.main import COMMANDS
from tests.conftest import Here
from tests.rows import asks, read_jsonl, write_jsonl

BAD_USE = {
    "no such input": (["sample", "nowhere.jsonl", "-m", "TINY"], "nowhere.jsonl: no such file"),
    "no such model": (["sample", "PROMPTS", "-m", "no/such/model"], "no/such/model: no such model directory"),
    "not a model": (["sample", "PROMPTS", "-m", "FOLDER"], "not a model directory (no config.json in it)"),
    "no such constitution": (["critique", "PROMPTS", "-m", "TINY", "-c", "nonesuch"], "nonesuch"),
    "output is a folder": (["sample", "PROMPTS", "-m", "TINY", "-o", "FOLDER"], "is a directory; -o takes a file name"),
    "unknown flag": (["sample", "PROMPTS", "-m", "TINY", "--frobnicate"], "--frobnicate"),
    "mistyped flag": (["sample", "PROMPTS", "--modle", "TINY"], "No such option: --modle. Did you mean --model?"),
    "mistyped flag of a subcommand": (["import", "csv", "--colum", "x"], "Did you mean --column?"),
    "mistyped command": (["sampel"], "No such command 'sampel'. Did you mean 'sample'?"),
    "mistyped subcommand": (["import", "cvs"], "No such command 'cvs'. Did you mean 'csv'"),
    "model missing": (["sample", "PROMPTS"], "--model"),
    "limit zero": (["sample", "PROMPTS", "-m", "TINY", "--limit", "0"], "--limit"),
    "infinite temperature": (
        ["sample", "PROMPTS", "-m", "TINY", "--temperature", "inf"],
        "--temperature inf: must be a finite number",
    ),
    "penalty not a number": (
        ["rl", "PROMPTS", "-m", "TINY", "--pm", "TINY", "-o", "out", "--eos-penalty", "nan"],
        "--eos-penalty nan: must be a finite number",
    ),
    "manifest nowhere": (
        ["sample", "PROMPTS", "-m", "TINY", "--manifest", "FOLDER/no/m.json"],
        "give a file in a folder that exists",
    ),
    "no room for a prompt": (
        ["sample", "PROMPTS", "-m", "TINY", "--max-tokens", "4096"],
        "--max-tokens 4096 leaves no room for a prompt in the model's context of 4096",
    ),
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


def test_a_config_takes_short_names_and_lists(here: Here, tiny: str, tmp_path: Path) -> None:
    asked, config = write_jsonl(tmp_path / "p.jsonl", asks(1)), tmp_path / "c.yaml"
    config.write_text(
        f"m: {tiny}\nn: 2\no: {tmp_path}/out.jsonl\ntemplate_arg: [a=1, b=2]\nmax-tokens: 2\nlimit: null\nengine: transformers\n"
    )
    assert "has no variable 'a'" in here("sample", asked, "--config", config, code=2).err
    config.write_text(config.read_text().replace("template_arg: [a=1, b=2]", "restart: true"))
    here("sample", asked, "--config", config)
    assert len(read_jsonl(tmp_path / "out.jsonl")[0]["responses"]) == 2


BAD_CONFIG = {
    "max-tokenz: 3": "this command has no flag 'max-tokenz'; did you mean 'max-tokens'?",
    "max-tokens: many": "'max-tokens': Input should be a valid integer",
    "max_tokens: 0": "'max_tokens': Input should be greater than or equal to 1",
    "n: true": "'n': give a number or a text, not true",
    "m: [a, b]": """'m': give a number or a text, not ["a", "b"]""",
    "deterministic: [1]": "'deterministic': give true or false, not [1]",
    "engine: vlm": "'engine': Value error, 'vlm' is not one of",
    "m: x\nmodel: y": "'model' is the same flag as an earlier key",
    "- m": "must be a mapping of flags to values",
}


@pytest.mark.parametrize("text", BAD_CONFIG)
def test_an_error_in_a_config_names_the_file_and_the_key(here: Here, tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    shown = here("sample", "p.jsonl", "--config", tmp_path / "c.yaml", code=2).err
    assert f"c.yaml: {BAD_CONFIG[text]}" in " ".join(shown.replace("│", " ").split())


def test_the_environment_sets_flags_below_the_command_line_and_above_the_config(
    here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, config = write_jsonl(tmp_path / "p.jsonl", asks(1)), tmp_path / "c.yaml"
    config.write_text("max-tokens: 3\ntop-p: 0.5\nseed: 3\n")
    for name, value in {"MODEL": tiny, "MAX_TOKENS": "4", "SEED": "4", "N": "2", "DETERMINISTIC": "1", "CONFIG": config}.items():
        monkeypatch.setenv(f"CAI_{name}", str(value))
    here("sample", asked, "--seed", 5, "-o", tmp_path / "out.jsonl")
    used = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["fingerprint"]
    assert [used[name] for name in ("top_p", "max_tokens", "seed", "n", "deterministic")] == [0.5, 4, 5, 2, True]
    monkeypatch.setenv("CAI_SEED", "four")
    assert "(from the environment variable CAI_SEED)" in " ".join(here("sample", asked, code=2).err.split())
    monkeypatch.delenv("CAI_SEED")
    monkeypatch.setenv("CAI_CONSTITUTION", "default nonesuch")
    monkeypatch.delenv("CAI_CONFIG")
    assert "no constitution 'nonesuch'" in here("critique", asked, code=2).err


def test_every_flag_has_a_variable_of_its_own() -> None:
    for name in COMMANDS:
        command = typer.main.get_command(import_module(f"cai_cli.commands.{name.replace('-', '_')}").app)
        for each in getattr(command, "commands", {"": command}).values():
            taken = [p.envvar for p in each.params if p.param_type_name == "option"]
            assert None not in taken, (name, each.name)
            assert len(set(taken)) == len(taken), (name, each.name)


def test_the_help_groups_the_flags(here: Here) -> None:
    panels: dict[str, str] = {}
    for part in here("sample", "--help").out.split("╭─ ")[1:]:
        title, text = part.split(" ─", 1)
        panels[title] = text
    assert list(panels) == ["Arguments", "Options", "Input", "Model", "Many GPUs", "Sampling", "Principles", "Output"]
    for title, flag in (("Options", "--turns"), ("Input", "--limit"), ("Model", "--template-arg"), ("Sampling", "--seed")):
        assert [name for name in panels if f" {flag} " in panels[name]] == [title]
    assert " --dry-run " in panels["Output"]


def test_debug_shows_the_traceback_and_keeps_the_exit_code(here: Here, tiny: str) -> None:
    done = here("sample", "nowhere.jsonl", "-m", tiny, "--debug", code=2)
    assert "Traceback" in done.err
    assert "nowhere.jsonl: no such file" in done.err
