"""The stage runner through the real commands, in this process, with a tiny model: order, resuming, limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.engines.base import Completion, Engine, Failure, Feed, Key, Request, Steps
from cai_cli.errors import CaiError
from cai_cli.pipeline import inputs, outputs, stage
from tests.conftest import Here
from tests.resuming import count_requests, interrupt_after
from tests.rows import asks, read_jsonl, write_jsonl
from tests.tiny import EXACT, TRANSFORMERS


def write_partial(out: Path, lines: list[bytes], source: Path, fingerprint: Record, torn: bool) -> None:
    """Write the files that a killed run leaves: `lines`, the last one torn in the middle if `torn`."""
    unfinished = outputs.FileOutput(str(out), fingerprint)
    raw = source.read_bytes().splitlines(keepends=True)
    for i, line in enumerate(lines):
        meta = json.loads(line)["meta"]["response"]
        input_line = jsonl.Line(i + 1, raw[i], None)
        tokens = meta["prompt_tokens"], meta["completion_tokens"], 0, 0
        unfinished.write(inputs.line_digest(input_line), [json.loads(line)], [], tokens)
    unfinished.close()
    if torn:
        partial = Path(f"{out}.partial")
        partial.write_bytes(partial.read_bytes()[:-7])


def test_records_come_out_in_order_with_everything_they_held(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    rows = [{**row, "extra": {"kept": [1]}} for row in read_jsonl(prompts)]
    write_jsonl(Path(prompts), rows)
    out = tmp_path / "new" / "folder" / "out.jsonl"
    here("sample", prompts, "-m", tiny, *TRANSFORMERS, "--max-tokens", 8, "--batch-size", 5, "-o", out)
    got = read_jsonl(out)
    assert [{k: row[k] for k in rows[0]} for row in got] == rows
    assert all(set(row["meta"]["response"]) == {"seed", "finish", "prompt_tokens", "completion_tokens"} for row in got)
    assert {row["meta"]["response"]["finish"] for row in got} <= {"stop", "length"}
    assert len({row["meta"]["response"]["seed"] for row in got}) == len(rows)


@pytest.mark.parametrize("kept", ["torn", "whole"])
def test_an_unfinished_run_resumes_and_ends_the_same(
    here: Here, prompts: str, tiny: str, tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = 4 if kept == "torn" else 5
    out = tmp_path / "out.jsonl"
    command = ("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    here(*command)
    whole = out.read_bytes()
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())

    out.unlink()
    write_partial(out, whole.splitlines(keepends=True)[:5], Path(prompts), manifest["fingerprint"], torn=kept == "torn")
    requests = count_requests(monkeypatch)
    assert f"continuing after {finished} finished records" in here(*command).err
    assert requests == ["generate"] * (12 - finished)
    assert out.read_bytes() == whole
    again = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert {**again["counts"], "seconds": 0} == {**manifest["counts"], "seconds": 0}


def test_a_changed_option_is_refused_by_name_and_restart_discards(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    first_seed = read_jsonl(out)[0]["meta"]["response"]["seed"]
    fingerprint = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["fingerprint"]
    write_partial(out, out.read_bytes().splitlines(keepends=True)[:3], Path(prompts), fingerprint, torn=False)
    refused = here("sample", prompts, "-m", tiny, *EXACT, "--seed", 1, "-o", out, code=2)
    assert "changed: seed (0 before, 1 now)" in refused.err
    assert "--restart to discard it" in refused.err
    here("sample", prompts, "-m", tiny, *EXACT, "--seed", 1, "--restart", "-o", out)
    assert read_jsonl(out)[0]["meta"]["response"]["seed"] != first_seed
    shuffled = write_jsonl(Path(prompts), asks(12)[::-1])
    write_partial(out, out.read_bytes().splitlines(keepends=True)[:3], Path(prompts), {**fingerprint, "seed": 1}, torn=False)
    assert "changed: input" in here("sample", shuffled, "-m", tiny, *EXACT, "--seed", 1, "-o", out, code=2).err


def test_a_pipe_resumes_too_and_refuses_another_input(
    here: Here, tiny: str, tmp_path: Path, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, lines = tmp_path / "out.jsonl", Path(prompts).read_text()
    command = ("sample", "-", "-m", tiny, *EXACT, "-o", out)
    here(*command, stdin=lines)
    whole = out.read_bytes()
    fingerprint = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["fingerprint"]
    write_partial(out, whole.splitlines(keepends=True)[:5], Path(prompts), fingerprint, torn=False)
    other = "\n".join(reversed(lines.splitlines())) + "\n"
    assert "differs from the one that an earlier run read" in here(*command, stdin=other, code=2).err
    requests = count_requests(monkeypatch)
    assert "continuing after 5 finished records" in here(*command, stdin=lines).err
    assert requests == ["generate"] * 7
    assert out.read_bytes() == whole


def test_an_input_that_ends_early_is_refused(here: Here, tiny: str, tmp_path: Path, prompts: str) -> None:
    out, lines = tmp_path / "out.jsonl", Path(prompts).read_text().splitlines(keepends=True)
    command = ("sample", "-", "-m", tiny, *EXACT, "-o", out)
    here(*command, stdin="".join(lines))
    fingerprint = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["fingerprint"]
    write_partial(out, out.read_bytes().splitlines(keepends=True)[:5], Path(prompts), fingerprint, torn=False)
    out.unlink()
    assert "the input ended before the 5 records" in here(*command, stdin="".join(lines[:2]), code=2).err
    assert not out.exists()


def test_prompts_longer_than_the_engines_context_are_skipped(tmp_path: Path) -> None:
    class Small(Engine):
        context = 4

        def run(self, feed: Feed) -> Iterator[tuple[Key, Completion]]:
            for entry in feed:
                if entry is not None:
                    yield entry[0], Completion("text", "stop", 0, 1, 1)

    def program(record: Record) -> Steps[list[Record]]:
        yield [Request("generate", [1] * len(record["prompt"]), "", max_tokens=1)]
        return [record]

    source = write_jsonl(tmp_path / "in.jsonl", [{"id": i, "prompt": i} for i in ("aaaaa", "bbb", "cccccc", "d")])
    output = outputs.FileOutput(str(tmp_path / "out"), {})
    job = stage.Job("test", lambda record: None, program, Small, 5, {}, {})
    stage._Run(job, stage.RunOptions(source, quiet=True), output, {}).run()
    output.finish({})
    output.close()
    assert [row["id"] for row in read_jsonl(tmp_path / "out")] == ["bbb", "d"]
    assert ["context of 5" in row["error"] for row in read_jsonl(tmp_path / "out.skipped.jsonl")] == [True, False]


class Refusing(Engine):
    """Fails the requests whose `max_tokens` is 0: at once, as a server refuses what it does not like. Answers are slower."""

    context = 100

    def run(self, feed: Feed) -> Iterator[tuple[Key, Completion | Failure]]:
        slow: list[Key] = []
        for entry in feed:
            if entry and entry[1].max_tokens == 0:
                yield entry[0], Failure("not this")
            elif entry:
                slow.append(entry[0])
            elif slow:
                yield slow.pop(), Completion("text", "stop", 0, 1, 1)


def refused(tmp_path: Path, bad: Callable[[int], int], count: int, **how: Any) -> list[str]:
    """The ids that a run over `count` records writes. `bad`: how many requests of a record are refused; 0: its one is answered."""

    def program(record: Record) -> Steps[list[Record]]:
        number = int(record["id"])
        yield [Request("generate", [number, i], "", max_tokens=int(not bad(number))) for i in range(bad(number) or 1)]
        return [record]

    source = write_jsonl(tmp_path / "in.jsonl", [{"id": str(i), "prompt": "x"} for i in range(count)])
    output = outputs.FileOutput(str(tmp_path / "out"), {})
    job = stage.Job("test", lambda record: None, program, Refusing, 100, {}, {})
    try:
        stage._Run(job, stage.RunOptions(source, quiet=True, **how), output, {}).run()
        output.finish({})
    finally:
        output.close()
    return [row["id"] for row in read_jsonl(tmp_path / "out")]


def test_a_record_whose_many_requests_all_fail_costs_itself(tmp_path: Path) -> None:
    assert refused(tmp_path, lambda number: 40 if number == 3 else 0, 8) == [i for i in "01234567" if i != "3"]


def test_quick_failures_before_slow_answers_do_not_end_a_run(tmp_path: Path) -> None:
    assert refused(tmp_path, lambda number: int(number % 8 > 0), 80) == [str(i) for i in range(0, 80, 8)]


def test_a_run_in_which_every_record_fails_ends_and_skips_none_of_them(tmp_path: Path) -> None:
    """What fails may be the engine: once it is repaired, the same command must not lack the records that it failed."""
    with pytest.raises(CaiError, match="16 records in a row failed, the last one with: not this; the same command tries them"):
        refused(tmp_path, lambda number: 2 if number > 0 else 0, 60)
    assert [row["id"] for row in read_jsonl(tmp_path / "out.partial")] == ["0"]
    # the first ones failed before record 0, which is slow, showed that the engine works
    assert [row["record"]["id"] for row in read_jsonl(tmp_path / "out.skipped.jsonl.partial")] == [str(i) for i in range(1, 17)]
    assert refused(tmp_path, lambda number: 0, 60) == ["0", *map(str, range(17, 60))]


def test_a_window_full_of_failed_records_goes_on(tmp_path: Path) -> None:
    assert refused(tmp_path, lambda number: int(number % 15 > 0), 45, window=4) == ["0", "15", "30"]


def test_with_skip_bad_every_record_may_fail(tmp_path: Path) -> None:
    assert refused(tmp_path, lambda number: 2, 40, skip_bad=True) == []
    assert len(read_jsonl(tmp_path / "out.skipped.jsonl")) == 40


def test_a_prompt_too_long_is_skipped_named_and_never_truncated(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    rows = read_jsonl(prompts)
    rows[4]["prompt"] = "long " * 4000
    write_jsonl(Path(prompts), rows)
    out = tmp_path / "out.jsonl"
    done = here("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    assert [row["id"] for row in read_jsonl(out)] == [f"q{i}" for i in range(12) if i != 4]
    [skipped] = read_jsonl(tmp_path / "out.jsonl.skipped.jsonl")
    assert skipped["record"]["id"] == "q4"
    assert "exceed the model's context of 4096" in skipped["error"]
    assert "skipped q4" in done.err
    assert json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["counts"]["skipped"] == 1


@pytest.mark.parametrize("command", ["sample", "critique", "revise"])
def test_an_empty_input_gives_an_empty_output_and_a_warning(here: Here, broken_model: str, tmp_path: Path, command: str) -> None:
    empty, out = write_jsonl(tmp_path / "empty.jsonl", []), tmp_path / "out.jsonl"
    done = here(command, empty, "-m", broken_model, *EXACT, "-o", out)
    assert "the input is empty, and so the output is empty too" in done.err
    assert out.read_bytes() == b""
    assert here(command, "-", "-m", broken_model, *EXACT, stdin="").out == ""


def test_limit_takes_the_first_records(here: Here, prompts: str, tiny: str) -> None:
    done = here("sample", prompts, "-m", tiny, *EXACT, "--limit", 2)
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["q0", "q1"]
    err = here("sample", prompts, "-m", tiny, *EXACT, "--limit", 1, "--quiet").err
    assert err.startswith("cai: warning: sample: 1 of 1 answer (100%) truncated"), "--quiet leaves only warnings"
    assert err.count("\n") == 1


def test_the_window_bounds_what_is_read_ahead(tmp_path: Path) -> None:
    """Records are read only as earlier ones are written: an engine that takes all it is given gets a window of them."""
    held: list[int] = []

    class Greedy(Engine):
        context = 512

        def run(self, feed: Feed) -> Iterator[tuple[Key, Completion]]:
            waiting: list[tuple[Key, Request]] = []
            for entry in feed:
                if entry is not None:
                    waiting.append(entry)
                    continue
                held.append(len(waiting))
                yield from ((key, Completion("text", "stop", 0, 1, 1)) for key, _ in waiting)
                waiting = []

    def program(record: Record) -> Steps[list[Record]]:
        [done] = yield [Request("generate", [1], "")]
        return [{**record, "response": done.text}]

    source = write_jsonl(tmp_path / "in.jsonl", asks(50))
    with (tmp_path / "out.jsonl").open("wb", buffering=0) as stream:
        job = stage.Job("test", lambda record: None, program, Greedy, 512, {}, {})
        output = outputs.StreamOutput(stream)
        stage._Run(job, stage.RunOptions(source, window=4, quiet=True), output, {}).run()
        output.close()
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == [f"q{i}" for i in range(50)]
    assert max(held) == 4


def test_dry_run_shows_the_requests_and_loads_no_weights(here: Here, prompts: str, broken_model: str) -> None:
    shown = [json.loads(line) for line in here("sample", prompts, "-m", broken_model, "-n", 2, "--dry-run", 3).out.splitlines()]
    assert [row["id"] for row in shown] == ["q0", "q0", "q1"]
    assert shown[0]["text"].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert shown[0]["seed"] != shown[1]["seed"]
    assert set(shown[0]) == {"id", "text", "seed", "max_tokens", "stop"}
    [plain] = here("sample", prompts, "-m", broken_model, "--format", "hh", "--dry-run", 1).out.splitlines()
    assert json.loads(plain)["text"].startswith("\n\nHuman: ")
    assert "\n\nHuman:" in json.loads(plain)["stop"]


def test_a_dry_run_skips_what_the_run_would_skip(here: Here, prompts: str, broken_model: str) -> None:
    long = {"id": "long", "prompt": "long " * 4000}
    write_jsonl(Path(prompts), [{"id": "bad"}, long, *read_jsonl(prompts)])
    done = here("sample", prompts, "-m", broken_model, "--dry-run", 1, "--skip-bad")
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["q0"]
    assert "would skip long" in done.err
    assert ":1: no 'prompt' field" in here("sample", prompts, "-m", broken_model, "--dry-run", 1, code=2).err


def test_a_dry_run_leaves_a_finished_output_alone(here: Here, prompts: str, broken_model: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    assert len(here("sample", prompts, "-m", broken_model, "--dry-run", 1, "-o", out).out.splitlines()) == 1
    assert out.read_text() == "precious"


def test_a_repeated_id_is_skipped_after_a_resume_too(
    here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": name, "prompt": "Hello?"} for name in "abcad"])
    command = ("sample", source, "-m", tiny, *EXACT, "--skip-bad", "-o", tmp_path / "out")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        here(*command, code=130)
    here(*command)
    assert [row["id"] for row in read_jsonl(tmp_path / "out")] == ["a", "b", "c", "d"]
