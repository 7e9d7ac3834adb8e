"""docs/security.md names a test for each of its promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
