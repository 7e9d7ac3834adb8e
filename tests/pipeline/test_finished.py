"""The same command over a finished output, another command over it, and a run that skips every record."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Here
from tests.resuming import count_requests
from tests.rows import pair, read_jsonl, write_jsonl
from tests.tiny import EXACT


def test_a_finished_output_is_not_made_again(
    here: Here, prompts: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    command = ("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    first = here(*command)
    whole = out.read_bytes()
    os.utime(out, (1, 1))
    Path(f"{out}.partial.journal").write_text("")  # as a kill leaves it between the last rename and the end
    requests = count_requests(monkeypatch)
    again = here(*command)
    assert f"cai sample: already done: {out} (12 records); --restart makes it again\n" in again.err
    assert "loading" not in again.err
    assert again.err.splitlines()[-1] == first.err.splitlines()[-1]  # what the step reports about all records
    assert not requests
    assert out.read_bytes() == whole
    assert out.stat().st_mtime > os.stat(prompts).st_mtime  # `make` sees that it is up to date
    assert not Path(f"{out}.partial.journal").exists()
    here(*command, "--restart")
    assert len(requests) == 12


def test_another_run_replaces_the_output_and_names_what_changed(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ("sample", prompts, "-m", tiny, *EXACT, "--limit", 2, "-o", out)
    here(*command)
    before = out.read_bytes()
    replaced = here(*command, "--seed", 1)
    assert f"sample: replaces {out}, a finished output of another run; changed: seed (0 before, 1 now)\n" in replaced.err
    assert out.read_bytes() != before
    Path(prompts).write_text(Path(prompts).read_text() + "\n")
    assert "changed: input" in here(*command, "--seed", 1).err
    answered = tmp_path / "answered.jsonl"
    answered.write_bytes(out.read_bytes())
    assert 'changed: step ("sample" before, "critique" now)\n' in here("critique", answered, "-m", tiny, *EXACT, "-o", out).err


def test_an_output_that_was_edited_is_kept(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    here(*command)
    out.write_text("edited\n")
    assert f"{out} was edited after it was made, and is kept; --restart makes it again" in here(*command).err
    assert out.read_text() == "edited\n"


def test_what_a_pipe_gave_is_made_again(
    here: Here, prompts: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = count_requests(monkeypatch)
    for seen in (12, 24):
        here("sample", "-", "-m", tiny, *EXACT, "-o", tmp_path / "out.jsonl", stdin=Path(prompts).read_text())
        assert len(requests) == seen


def test_the_report_of_a_finished_output_is_the_same(here: Here, tiny: str, tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [pair(0), pair(1, "same", "same")])
    command = ("label", pairs, "-m", tiny, *EXACT, "--few-shot", 0, "-o", tmp_path / "out.jsonl")
    first, again = (here(*command).err.splitlines() for _ in range(2))
    assert "already done" in again[0]
    assert "1 of identical answers" in " ".join(again) or "1 pair of identical answers" in " ".join(again)
    assert again[1:] == first[-len(again) + 1 :]


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_skips_every_record_fails(here: Here, broken_model: str, tmp_path: Path, stream: bool) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": "a"}, {"id": "b"}, {"id": "c", "prompt": "long " * 4000}])
    out = tmp_path / "out.jsonl"
    command = ("sample", source, "-m", broken_model, *EXACT, "--skip-bad", *(() if stream else ("-o", out)))
    see = "" if stream else f"; see {out}.skipped.jsonl"
    message = f"every record was skipped{see}; most frequent reason (2 of 3): no 'prompt' field"
    assert message in here(*command, code=1).err
    if not stream:
        assert out.read_bytes() == b""
        assert len(read_jsonl(f"{out}.skipped.jsonl")) == 3
        assert json.loads(Path(f"{out}.manifest.json").read_text())["counts"]["skipped"] == 3
        again = here(*command, code=1).err
        assert "already done" in again
        assert message in again
