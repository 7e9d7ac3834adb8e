"""Bad input lines: found before a model is loaded, skipped with --skip-bad, named in a pipe."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Here
from tests.rows import read_jsonl
from tests.tiny import EXACT


def test_a_bad_line_stops_the_run_before_the_model_is_loaded(here: Here, prompts: str, broken_model: str, tmp_path: Path) -> None:
    with open(prompts, "a") as stream:
        stream.write('{"id": "bad"}\n')
    stopped = here("sample", prompts, "-m", broken_model, *EXACT, "-o", tmp_path / "out.jsonl", code=2)
    assert f"{prompts}:13: no 'prompt' field; fix the line, or skip such lines with --skip-bad" in stopped.err
    assert not list(tmp_path.glob("out*"))


def test_bad_lines_are_skipped_with_skip_bad(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    lines = Path(prompts).read_text().splitlines()
    bad = ['{"id": "x", "prompt": ""}', "nonsense \u2028", '{"id": "q0", "prompt": "again"}']
    Path(prompts).write_text("\n".join([*lines[:3], *bad, *lines[3:]]) + "\n")
    out = tmp_path / "out.jsonl"
    done = here("sample", prompts, "-m", tiny, *EXACT, "--skip-bad", "-o", out)
    assert [row["id"] for row in read_jsonl(out)] == [f"q{i}" for i in range(12)]
    skipped = read_jsonl(tmp_path / "out.jsonl.skipped.jsonl")
    assert [row["line"] for row in skipped] == [4, 5, 6]
    assert skipped[0]["record"]["id"] == "x"
    assert skipped[1]["text"] == "nonsense \u2028"
    assert "duplicate id 'q0'; first seen on line 1" in skipped[2]["error"]
    assert "skipped 3 records" in done.err


def test_records_before_a_bad_line_of_a_pipe_are_written(here: Here, prompts: str, tiny: str) -> None:
    lines = Path(prompts).read_text().splitlines()[:3]
    done = here("sample", "-", "-m", tiny, *EXACT, stdin="\n".join([*lines, '{"id": 1}', lines[0]]) + "\n", code=2)
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["q0", "q1", "q2"]
    assert "<stdin>:4: no 'prompt' field" in done.err
