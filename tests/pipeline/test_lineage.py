"""Inputs that a manifest names are found from any working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_cli.pipeline import lineage, manifest


def made(path: Path, sha256: str, *inputs: tuple[str, str]) -> Path:
    """A file with a manifest that names its inputs as (path as it was typed, hash)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    named = [{"path": name, "sha256": sha} for name, sha in inputs]
    manifest.write(f"{path}.manifest.json", {"inputs": named, "output": {"sha256": sha256}})
    return path


def test_an_input_is_looked_up_from_the_folder_of_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(tmp_path / "runs/x/a.jsonl", "A")
    out = made(tmp_path / "runs/x/b.jsonl", "B", ("runs/x/a.jsonl", "A"))
    other = tmp_path / "other"
    made(other / "runs/x/a.jsonl", "another")
    for folder in (tmp_path, other, tmp_path / "runs/x"):
        monkeypatch.chdir(folder)
        assert lineage.find("runs/x/a.jsonl", out, "A") == first
    monkeypatch.chdir(tmp_path / "runs")
    assert [place for place, _ in lineage.history(Path("x/b.jsonl"))] == [Path("x/b.jsonl"), first]


def test_an_input_with_the_right_hash_is_preferred(tmp_path: Path) -> None:
    wrong = made(tmp_path / "runs/a.jsonl", "wrong")
    moved = made(tmp_path / "runs/x/a.jsonl", "A")
    out = made(tmp_path / "runs/x/b.jsonl", "B", ("runs/a.jsonl", "A"))
    assert lineage.find("runs/a.jsonl", out, "A") == moved
    assert lineage.find("runs/a.jsonl", out, "C") == wrong
    assert lineage.find("no/such", out) == Path("no/such")
