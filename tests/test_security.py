"""docs/security.md names a test for each of its promises."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from cai_cli.pipeline import manifest
from tests.processes import cai
from tests.rows import asks, write_jsonl
from tests.tiny import EXACT, ROOT


def test_every_test_that_the_security_page_names_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 10
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"


def test_no_secret_of_the_environment_is_written(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "CAI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "canary-5d1f")
    source = write_jsonl(tmp_path / "in.jsonl", asks(1))
    run = ("sample", source, "-m", tiny, *EXACT)
    said = [cai(*run, "--dry-run", "1"), cai(*run, "--debug", "-o", tmp_path / "out.jsonl"), cai("report", tmp_path)]
    assert not any("canary-5d1f" in done.stdout + done.stderr for done in said)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in made} >= {"out.jsonl", "out.jsonl.manifest.json", "report.html"}
    assert not any(b"canary-5d1f" in path.read_bytes() for path in made)


def test_every_locked_version_is_checked_by_hash() -> None:
    """One line per package, with its hashes on the lines that follow."""
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z])", text[text.index("\n") :].replace("\\\n", " "))[1:]
    assert len(entries) > 100
    for entry in entries:
        assert re.match(r"[\w.\-\[\],]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry, re.DOTALL), entry[:80]


def test_temporary_files_are_new_and_private_until_they_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can read what is written meanwhile, nor put a link in its place."""
    modes: list[int] = []
    monkeypatch.setattr(os, "chmod", lambda name, mode: modes.append(Path(name).stat().st_mode & 0o777))
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out.json").symlink_to(tmp_path / "victim")
    manifest.write_atomic(tmp_path / "out.json", b"{}")
    assert modes == [0o600]
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "out.json").is_symlink()


def test_no_message_changes_the_terminal(tiny: str, tmp_path: Path) -> None:
    """An id, a name in a manifest, or a server's error may hold escape sequences, which set a title or hide lines."""
    escape = "\x1b]0;pwned\x07\x1b[2J"
    source = write_jsonl(tmp_path / "in.jsonl", [*asks(2), {"id": escape, "prompt": "word " * 9000}])
    said = cai("sample", source, "-m", tiny, *EXACT, "--max-tokens", 4, "-o", tmp_path / "out.jsonl").stderr
    assert "skipped \\x1b]0;pwned\\x07\\x1b[2J" in said
    write_jsonl(tmp_path / "kind.jsonl", [{"id": "a", "prompt": "Hi", "kind": escape}])
    (tmp_path / "config.yaml").write_text('"k\\e[2Jx": 1')
    for words in (("stats", tmp_path / "kind.jsonl"), ("stats", tmp_path / "kind.jsonl", "--config", tmp_path / "config.yaml")):
        done = cai(*words, code=2 if "--config" in words else 0)
        assert "\x1b[2J" not in done.stdout + done.stderr, words
        assert "\\x1b[2J" in done.stdout + done.stderr, words
    made = manifest.read(tmp_path / "out.jsonl.manifest.json")
    manifest.write(tmp_path / "out.jsonl.manifest.json", {**made, "model": {**made["model"], "name": escape}})
    for command in (
        ("trace", tmp_path / "out.jsonl", "q1"),
        ("stats", tmp_path / "out.jsonl"),
        ("report", tmp_path, "--markdown"),
    ):
        done = cai(*command)
        assert "\x1b" not in done.stdout + done.stderr, command
        assert "\x07" not in done.stdout + done.stderr, command
