"""`cai constitution`: list, show, check, convert."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cai_cli.method import constitution
from tests.conftest import Here


def converted(here: Here, out: Path, *names: str) -> None:
    """Convert a constitution, and compare it with what it was made from."""
    here("constitution", "convert", *names, "-o", out)
    before, after = constitution.load(*names), constitution.load(str(out))
    assert (after.principles, after.examples) == (before.principles, before.examples)


def test_a_converted_constitution_is_the_same_one(here: Here, tmp_path: Path) -> None:
    for name in (constitution.DEFAULT, "non-evasive"):
        converted(here, tmp_path / "out.yaml", name)


def test_the_papers_files_are_converted(here: Here, paper: list[str], tmp_path: Path) -> None:
    converted(here, tmp_path / "out.yaml", *paper)
    assert set(yaml.safe_load((tmp_path / "out.yaml").read_text())) == {"name", "principles", "examples"}


def test_the_list_fits_a_terminal_and_a_pipe(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = here("constitution", "list").out.splitlines()
    assert [line.split("\t")[0] for line in lines] == list(constitution.packaged())
    assert lines[-1].split("\t")[1] == "1"
    assert "2022" in lines[0].split("\t")[3]  # the whole note, on one line

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # 80 columns, without styles
    lines = here("constitution", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *constitution.packaged()]
    assert "16" in lines[1]
    assert all(len(line) <= 80 for line in lines)


def test_the_group_shows_and_checks(here: Here, tmp_path: Path) -> None:
    shown = here("constitution", "show", "default", "--tags", "privacy").out
    assert "crime-avoidance" in shown
    assert "general-harm" not in shown.split("\n", 3)[3]
    path = tmp_path / "c.yaml"
    path.write_text("name: x\nprinciples:\n- {id: a, critique: Say so.}\n- {id: b, critique: Say so., revision: Fix it.}\n")
    done = here("constitution", "check", path).out
    assert "2 principles (2 critique, 1 revision, 0 compare)" in done
    assert "without a 'revision' text: a" in done
    path.write_text("name: x\nprinciples:\n- {id: a}\n")
    assert (
        "the principle 'a' has no text; give it one of critique, revision, compare"
        in here("constitution", "check", path, code=2).err
    )
