"""The stage runner through the real commands, in this process, with a tiny model: order, resume, errors, manifests."""

from __future__ import annotations

import json
import os
import random
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai_cli import jsonl, outputs, stage
from cai_cli.engines.base import Completion, Request
from cai_cli.errors import CaiError, InputError
from tests.conftest import Here
from tests.tiny import read_jsonl, write_jsonl

WORDS = ["the", "weather", "in", "France", "today", "is", "a", "locksmith", "who", "can", "help", "rewrite", "the", "answer"]


def asks(n: int, longest: int = 30) -> list[dict[str, Any]]:
    """Prompt records of various lengths."""
    draw = random.Random(5)
    return [{"id": f"q{i}", "prompt": " ".join(draw.choices(WORDS, k=draw.randint(1, longest)))} for i in range(n)]


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "prompts.jsonl", asks(12))


EXACT = ("--engine", "transformers", "--deterministic", "--max-tokens", "8")


def test_records_come_out_in_order_with_everything_they_held(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    rows = [{**row, "extra": {"kept": [1]}} for row in read_jsonl(prompts)]
    write_jsonl(Path(prompts), rows)
    out = tmp_path / "new" / "folder" / "out.jsonl"
    here("sample", prompts, "-m", tiny, "--engine", "transformers", "--max-tokens", 8, "--batch-size", 5, "-o", out)
    got = read_jsonl(out)
    assert [{k: row[k] for k in rows[0]} for row in got] == rows
    assert all(set(row["meta"]["response"]) == {"seed", "finish", "prompt_tokens", "completion_tokens"} for row in got)
    assert {row["meta"]["response"]["finish"] for row in got} <= {"stop", "length"}
    assert len({row["meta"]["response"]["seed"] for row in got}) == len(rows)


def test_the_manifest_traces_the_output(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "--seed", 3, "-o", out)
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["output"]["sha256"] == sha256(out.read_bytes()).hexdigest()
    assert manifest["inputs"] == [{"path": prompts, "sha256": sha256(Path(prompts).read_bytes()).hexdigest()}]
    assert manifest["model"]["name"] == tiny
    assert len(manifest["model"]["sha256"]) == 64
    assert manifest["seed"] == 3
    assert manifest["command"][:2] == ["cai", "sample"]
    counts = manifest["counts"]
    assert (counts["records_in"], counts["records_out"], counts["set_aside"]) == (12, 12, 0)
    assert counts["completion_tokens"] == sum(row["meta"]["response"]["completion_tokens"] for row in read_jsonl(out))
    assert not list(tmp_path.glob("*.partial*"))


def test_chained_rounds_draw_their_own_principles_and_repeat_byte_for_byte(
    here: Here, prompts: str, tiny: str, tmp_path: Path
) -> None:
    def chain(name: str) -> Path:
        steps = [tmp_path / f"{name}-{i}.jsonl" for i in range(5)]
        here("sample", prompts, "-m", tiny, *EXACT, "-o", steps[0])
        for i, command in enumerate(["critique", "revise", "critique", "revise"]):
            here(command, steps[i], "-m", tiny, *EXACT, "--few-shot", 1, "-o", steps[i + 1])
        return steps[-1]

    first, second = chain("a"), chain("b")
    assert first.read_bytes() == second.read_bytes()
    rows = read_jsonl(first)
    assert all([set(r) for r in row["rounds"]] == [{"principle", "critique", "revision", "flags", "meta"}] * 2 for row in rows)
    assert any(row["rounds"][0]["principle"] != row["rounds"][1]["principle"] for row in rows)
    assert len({row["rounds"][0]["principle"] for row in rows}) > 3


@pytest.mark.parametrize(("format", "rounds"), [("chat", 2), ("hh", 3)])
def test_rounds_in_one_process_equal_chained_commands_byte_for_byte(
    here: Here, prompts: str, tiny: str, tmp_path: Path, format: str, rounds: int
) -> None:
    how = ("-m", tiny, *EXACT, "--format", format, "--few-shot", 1, "--retry", 1)
    names = [tmp_path / f"{i}.jsonl" for i in range(2 * rounds + 1)]
    here("sample", prompts, "-m", tiny, *EXACT, "-o", names[0])
    for i, command in enumerate(["critique", "revise"] * rounds):
        here(command, names[i], *how, "-o", names[i + 1])
    here("revise", names[0], *how, "--from-response", "--rounds", rounds, "-o", tmp_path / "whole.jsonl")
    assert (tmp_path / "whole.jsonl").read_bytes() == names[-1].read_bytes()
    assert any(entry["flags"] for row in read_jsonl(names[-1]) for entry in row["rounds"])  # eight tokens are few


def test_a_flagged_text_is_sampled_again(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    responses = write_jsonl(tmp_path / "r.jsonl", [{**row, "response": "Hi."} for row in read_jsonl(prompts)])
    options = ("-m", tiny, "--engine", "transformers", "--dtype", "float32", "--few-shot", 0, "--max-tokens", 60)
    once, again = (
        [row["rounds"][0] for row in map(json.loads, here("critique", responses, *options, "--retry", n).out.splitlines())]
        for n in (0, 4)
    )
    taken = [i for i, entry in enumerate(again) if entry["meta"]["critique"].get("attempt")]
    assert taken
    assert all(len(again[i]["flags"]) < len(once[i]["flags"]) for i in taken)
    assert all(again[i] == once[i] for i in range(12) if i not in taken)


def test_direct_revisions_have_no_critique(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    responses, out = tmp_path / "r.jsonl", tmp_path / "out.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-o", responses)
    here("revise", responses, "-m", tiny, *EXACT, "--direct", "--rounds", 2, "--few-shot", 1, "-o", out)
    shapes = [[set(r) for r in row["rounds"]] for row in read_jsonl(out)]
    assert shapes == [[{"principle", "revision", "flags", "meta"}] * 2] * 12
    [shown] = here(
        "revise", responses, "-m", tiny, "--direct", "--few-shot", 0, "--format", "hh", "--dry-run", 1
    ).out.splitlines()
    assert "Critique" not in json.loads(shown)["text"]
    assert "--rounds needs --from-response" in here("revise", responses, "-m", tiny, "--rounds", 2, code=2).err
    assert "give one of the two" in here("revise", responses, "-m", tiny, "--direct", "--from-response", code=2).err
    assert "--retry with --temperature 0" in here("revise", responses, "-m", tiny, "--retry", 1, "--temperature", 0, code=2).err


def test_a_dry_run_of_rounds_marks_what_depends_on_earlier_texts(here: Here, broken_model: str, tmp_path: Path) -> None:
    responses = write_jsonl(tmp_path / "r.jsonl", [{"id": "a", "prompt": "Hello?", "response": "Hi."}])
    out = here("revise", responses, "-m", broken_model, "--from-response", "--rounds", 2, "--few-shot", 0, "--dry-run", 9).out
    shown = [json.loads(line) for line in out.splitlines()]
    assert [row.get("depends_on_earlier_text", False) for row in shown] == [False, True, True, True]
    assert "<the text of request 1>" in shown[1]["text"]
    assert "Hi." in shown[1]["text"]
    assert "<the text of request 2>" in shown[2]["text"]
    assert "Hi." not in shown[2]["text"]


def test_rounds_that_were_made_are_kept_when_a_later_one_does_not_fit(here: Here, tiny: str, tmp_path: Path) -> None:
    config = json.loads((Path(tiny) / "config.json").read_text())
    small = tmp_path / "small"
    shutil.copytree(tiny, small)
    responses = write_jsonl(tmp_path / "r.jsonl", [{"id": "a", "prompt": "Hello?", "response": "Hi."}])
    exact = ("--engine", "transformers", "--dtype", "float32", "--format", "hh", "--few-shot", 0, "--max-tokens", 100)
    [row] = (json.loads(line) for line in here("revise", responses, "-m", tiny, *exact, "--from-response").out.splitlines())
    used = row["rounds"][0]["meta"]["revision"]["prompt_tokens"] + 100
    (small / "config.json").write_text(json.dumps({**config, "max_position_embeddings": used + 20}))
    here("revise", responses, "-m", small, *exact, "--from-response", "--rounds", 6, "-o", tmp_path / "out.jsonl")
    [aside] = read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")
    assert "exceed the model's context" in aside["error"]
    assert aside["record"]["rounds"][0] == row["rounds"][0]


def test_a_record_draws_the_same_whatever_else_is_in_the_file(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-n", 2, "-o", whole)
    shard = write_jsonl(tmp_path / "shard.jsonl", read_jsonl(prompts)[7:4:-1])
    here("sample", shard, "-m", tiny, *EXACT, "-n", 2, "-o", part)
    assert read_jsonl(part) == read_jsonl(whole)[7:4:-1]
    here("sample", prompts, "-m", tiny, *EXACT, "-n", 2, "--seed", 1, "-o", part)
    assert all(a["responses"] != b["responses"] for a, b in zip(read_jsonl(part), read_jsonl(whole), strict=True))


def test_labels_are_kept_per_order_and_identical_answers_are_marked(here: Here, tiny: str, tmp_path: Path) -> None:
    pairs = write_jsonl(
        tmp_path / "pairs.jsonl",
        [{"id": "a", "prompt": "Hello?", "responses": ["one", "two"]}, {"id": "b", "prompt": "Hello?", "responses": ["same", "same"]},
         {"id": "c", "prompt": "Hello?", "responses": ["two", "one"]}],
    )  # fmt: skip
    out = tmp_path / "out.jsonl"
    here("label", pairs, "-m", tiny, *EXACT[:3], "--few-shot", 0, "-o", out)
    a, same, c = read_jsonl(out)
    assert (same["p_chosen"], same["label"]["identical"], same["chosen"][0]["content"]) == (0.5, True, "same")
    assert a["p_chosen"] == pytest.approx(max(a["label"]["p_first"], 1 - a["label"]["p_first"]))
    if a["label"]["principles"] == c["label"]["principles"]:
        assert a["label"]["orders"]["ab"] == pytest.approx(1 - c["label"]["orders"]["ba"], abs=1e-6)
    assert 0.5 <= c["p_chosen"] <= 1


@pytest.mark.parametrize("kept", ["torn", "whole"])
def test_an_unfinished_run_goes_on_and_ends_the_same(here: Here, prompts: str, tiny: str, tmp_path: Path, kept: str) -> None:
    out = tmp_path / "out.jsonl"
    command = ("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    here(*command)
    whole = out.read_bytes()
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())

    out.unlink()
    write_partial(out, whole.splitlines(keepends=True)[:5], Path(prompts), manifest["fingerprint"], torn=kept == "torn")
    done = here(*command)
    assert f"going on after {4 if kept == 'torn' else 5} finished records" in done.err
    assert out.read_bytes() == whole
    again = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert {**again["counts"], "seconds": 0} == {**manifest["counts"], "seconds": 0}


def write_partial(out: Path, lines: list[bytes], source: Path, fingerprint: dict, torn: bool) -> None:
    """The files that a killed run leaves: `lines` written, the last one torn in the middle if asked."""
    unfinished = outputs.FileOutput(str(out), fingerprint)
    raw = source.read_bytes().splitlines(keepends=True)
    for i, line in enumerate(lines):
        meta = json.loads(line)["meta"]["response"]
        input_line = jsonl.Line(i + 1, raw[i], None)
        unfinished.write(stage._digest(input_line), [json.loads(line)], [], (meta["prompt_tokens"], meta["completion_tokens"], 0))
    unfinished.close()
    if torn:
        partial = Path(f"{out}.partial")
        partial.write_bytes(partial.read_bytes()[:-7])


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


def test_a_pipe_resumes_too_and_refuses_another_input(here: Here, tiny: str, tmp_path: Path, prompts: str) -> None:
    out, lines = tmp_path / "out.jsonl", Path(prompts).read_text()
    command = ("sample", "-", "-m", tiny, *EXACT, "-o", out)
    here(*command, stdin=lines)
    whole = out.read_bytes()
    fingerprint = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["fingerprint"]
    write_partial(out, whole.splitlines(keepends=True)[:5], Path(prompts), fingerprint, torn=False)
    other = "\n".join(reversed(lines.splitlines())) + "\n"
    assert "differs from the one that was there" in here(*command, stdin=other, code=2).err
    assert "going on after 5" in here(*command, stdin=lines).err
    assert out.read_bytes() == whole


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_kill_leaves_nothing_is_lost_twice_or_doubled(
    tmp_path: Path, shape: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Cut the three files anywhere, reopen, write the rest: the result is that of an undisturbed run."""
    entries = [
        (f"d{i}", [{"r": [i, j]} for j in range(outs)], [{"x": [i, j]} for j in range(asides)], (i, 1, 2 * i))
        for i, (outs, asides) in enumerate(shape)
    ]
    shutil.rmtree(tmp_path / "w", ignore_errors=True)
    out = tmp_path / "w" / "out.jsonl"
    first = outputs.FileOutput(str(out), {"a": 1})
    for entry in entries:
        first.write(*entry)
    first.close()
    for path in (first.partial, first.journal, first.partial_rejected):
        if path.exists():
            size = path.stat().st_size
            path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, size))])
    again = outputs.FileOutput(str(out), {"a": 1})
    assert again.done == [entry[0] for entry in entries[: len(again.done)]]
    for entry in entries[len(again.done) :]:
        again.write(*entry)
    assert again.counts.records_in == len(entries)
    assert again.counts.prompt_tokens == sum(entry[3][0] for entry in entries)
    assert again.counts.reused_tokens == sum(entry[3][2] for entry in entries)
    again.finish({})
    again.close()
    assert read_jsonl(out) == [record for entry in entries for record in entry[1]]
    aside = [record for entry in entries for record in entry[2]]
    assert (read_jsonl(again.rejected) if again.rejected.exists() else []) == aside
    assert not list(out.parent.glob("*.partial*"))


def test_what_a_finished_run_left_beside_its_output_is_not_resumed(tmp_path: Path) -> None:
    """A kill after the last rename leaves the unfinished run's manifest and journal."""
    out = tmp_path / "x"
    first = outputs.FileOutput(str(out), {"a": 1})
    first.write("d0", [{"r": 1}], [], (1, 1, 0))
    first.close()
    first.partial.rename(out)
    again = outputs.FileOutput(str(out), {"a": 2})
    assert again.done == []
    again.close()


def test_a_kill_between_the_last_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines set aside are in place already, the output not yet."""
    out = tmp_path / "x"
    first = outputs.FileOutput(str(out), {"a": 1})
    first.write("d0", [{"r": 1}], [], (1, 1, 0))
    first.write("d1", [], [{"x": 1}], (1, 1, 0))

    def killed(source: Path, target: Path, replace: Any = os.replace) -> None:
        if target == out:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            first.finish({})
    first.close()
    assert read_jsonl(first.rejected) == [{"x": 1}]
    again = outputs.FileOutput(str(out), {"a": 1})
    assert again.done == ["d0", "d1"]
    again.finish({})
    again.close()
    assert (read_jsonl(out), read_jsonl(again.rejected)) == ([{"r": 1}], [{"x": 1}])
    clean = outputs.FileOutput(str(out), {"a": 1})
    clean.finish({})
    clean.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.manifest.json"]


def test_an_engine_that_holds_less_than_the_model_takes_sets_longer_prompts_aside(tmp_path: Path) -> None:
    class Small:
        context = 4

        def generate(self, feed: Any) -> Any:
            for entry in feed:
                if entry is not None:
                    yield entry[0], Completion("text", "stop", 0, 1, 1)

    def program(record: dict) -> Any:
        yield [Request("generate", [1] * len(record["prompt"]), "", max_tokens=1)]
        return [record]

    source = write_jsonl(tmp_path / "in.jsonl", [{"id": i, "prompt": i} for i in ("aaaaa", "bbb", "cccccc", "d")])
    output = outputs.FileOutput(str(tmp_path / "out"), {})
    job = stage.Job("test", lambda record: None, program, Small, 5, {}, {})
    stage._Run(job, stage.Files(source, quiet=True), output, None).run()
    output.finish({})
    output.close()
    assert [row["id"] for row in read_jsonl(tmp_path / "out")] == ["bbb", "d"]
    assert ["context of 5" in row["error"] for row in read_jsonl(tmp_path / "out.rejected.jsonl")] == [True, False]


def test_a_device_is_written_to_and_not_replaced(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    here("sample", prompts, "-m", tiny, *EXACT, "--limit", 2, "-o", fifo)
    assert [json.loads(line)["id"] for line in os.read(reader, 65536).splitlines()] == ["q0", "q1"]
    os.close(reader)
    assert fifo.is_fifo()
    assert [path.name for path in tmp_path.glob("fifo*")] == ["fifo"]


def test_a_dry_run_leaves_a_finished_output_alone(here: Here, prompts: str, broken_model: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    assert len(here("sample", prompts, "-m", broken_model, "--dry-run", 1, "-o", out).out.splitlines()) == 1
    assert out.read_text() == "precious"


def test_two_runs_never_write_one_output(tmp_path: Path) -> None:
    one = outputs.FileOutput(str(tmp_path / "x"), {})
    with pytest.raises(CaiError, match="another run is writing it"):
        outputs.FileOutput(str(tmp_path / "x"), {})
    one.close()


def test_a_bad_line_stops_the_run_before_the_model_is_loaded(here: Here, prompts: str, broken_model: str, tmp_path: Path) -> None:
    with open(prompts, "a") as stream:
        stream.write('{"id": "bad"}\n')
    stopped = here("sample", prompts, "-m", broken_model, *EXACT, "-o", tmp_path / "out.jsonl", code=2)
    assert f"{prompts}:13: no 'prompt' field; mend the line, or set such lines aside with --skip-bad" in stopped.err
    assert not list(tmp_path.glob("out*"))


def test_bad_lines_are_set_aside_when_asked(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    lines = Path(prompts).read_text().splitlines()
    bad = ['{"id": "x", "prompt": ""}', "nonsense \u2028", '{"id": "q0", "prompt": "again"}']
    Path(prompts).write_text("\n".join([*lines[:3], *bad, *lines[3:]]) + "\n")
    out = tmp_path / "out.jsonl"
    done = here("sample", prompts, "-m", tiny, *EXACT, "--skip-bad", "-o", out)
    assert [row["id"] for row in read_jsonl(out)] == [f"q{i}" for i in range(12)]
    rejected = read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")
    assert [row["line"] for row in rejected] == [4, 5, 6]
    assert rejected[0]["record"]["id"] == "x"
    assert rejected[1]["text"] == "nonsense \u2028"
    assert "the id 'q0' stands already on line 1" in rejected[2]["error"]
    assert "3 records set aside" in done.err


def test_what_came_before_a_bad_line_of_a_pipe_is_written(here: Here, prompts: str, tiny: str) -> None:
    lines = Path(prompts).read_text().splitlines()[:3]
    done = here("sample", "-", "-m", tiny, *EXACT, stdin="\n".join([*lines, '{"id": 1}', lines[0]]) + "\n", code=2)
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["q0", "q1", "q2"]
    assert "<stdin>:4: no 'prompt' field" in done.err


def test_a_prompt_too_long_is_set_aside_named_and_never_cut(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    rows = read_jsonl(prompts)
    rows[4]["prompt"] = "long " * 4000
    write_jsonl(Path(prompts), rows)
    out = tmp_path / "out.jsonl"
    done = here("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    assert [row["id"] for row in read_jsonl(out)] == [f"q{i}" for i in range(12) if i != 4]
    [aside] = read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")
    assert aside["record"]["id"] == "q4"
    assert "exceed the model's context of 4096" in aside["error"]
    assert "set aside q4" in done.err
    assert json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["counts"]["set_aside"] == 1


@pytest.mark.parametrize("command", ["sample", "critique", "revise"])
def test_an_empty_input_gives_an_empty_output_and_a_warning(here: Here, broken_model: str, tmp_path: Path, command: str) -> None:
    empty, out = write_jsonl(tmp_path / "empty.jsonl", []), tmp_path / "out.jsonl"
    done = here(command, empty, "-m", broken_model, *EXACT, "-o", out)
    assert "the input is empty, so is the output" in done.err
    assert out.read_bytes() == b""
    assert here(command, "-", "-m", broken_model, *EXACT, stdin="").out == ""


def test_dry_run_shows_the_requests_and_loads_no_weights(here: Here, prompts: str, broken_model: str) -> None:
    shown = [json.loads(line) for line in here("sample", prompts, "-m", broken_model, "-n", 2, "--dry-run", 3).out.splitlines()]
    assert [row["id"] for row in shown] == ["q0", "q0", "q1"]
    assert shown[0]["text"].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert shown[0]["seed"] != shown[1]["seed"]
    assert set(shown[0]) == {"id", "text", "seed", "max_tokens", "stop"}
    [plain] = here("sample", prompts, "-m", broken_model, "--format", "hh", "--dry-run", 1).out.splitlines()
    assert json.loads(plain)["text"].startswith("\n\nHuman: ")
    assert "\n\nHuman:" in json.loads(plain)["stop"]


def test_a_dry_run_passes_over_what_the_run_would_set_aside(here: Here, prompts: str, broken_model: str) -> None:
    long = {"id": "long", "prompt": "long " * 4000}
    write_jsonl(Path(prompts), [{"id": "bad"}, long, *read_jsonl(prompts)])
    done = here("sample", prompts, "-m", broken_model, "--dry-run", 1, "--skip-bad")
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["q0"]
    assert "sets aside long" in done.err
    assert ":1: no 'prompt' field" in here("sample", prompts, "-m", broken_model, "--dry-run", 1, code=2).err


def test_debug_shows_the_traceback_and_keeps_the_exit_code(here: Here, tiny: str) -> None:
    done = here("sample", "nowhere.jsonl", "-m", tiny, "--debug", code=2)
    assert "Traceback" in done.err
    assert "nowhere.jsonl: no such file" in done.err


def test_limit_takes_the_first_records(here: Here, prompts: str, tiny: str) -> None:
    done = here("sample", prompts, "-m", tiny, *EXACT, "--limit", 2)
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["q0", "q1"]
    assert here("sample", prompts, "-m", tiny, *EXACT, "--limit", 1, "--quiet").err == ""


def test_answered_records_are_refused_unless_resampled(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    out, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "-o", out)
    assert "--resample answers it anew" in here("sample", out, "-m", tiny, *EXACT, "-o", again, code=2).err
    here("sample", out, "-m", tiny, *EXACT, "--resample", "--seed", 1, "-n", 2, "-o", again)
    before, after = read_jsonl(out)[0], read_jsonl(again)[0]
    assert after["previous"] == [{"response": before["response"], "meta": before["meta"]}]
    assert len(after["responses"]) == 2
    assert "response" not in after


BAD_USE = {
    "no such input": (["sample", "nowhere.jsonl", "-m", "TINY"], "nowhere.jsonl: no such file"),
    "no such model": (["sample", "PROMPTS", "-m", "no/such/model"], "no/such/model: no such model directory"),
    "not a model": (["sample", "PROMPTS", "-m", "FOLDER"], "not a model directory (no config.json in it)"),
    "no such constitution": (["critique", "PROMPTS", "-m", "TINY", "-c", "nonesuch"], "nonesuch"),
    "output is a folder": (["sample", "PROMPTS", "-m", "TINY", "-o", "FOLDER"], "is a directory; -o takes a file name"),
    "unknown flag": (["sample", "PROMPTS", "-m", "TINY", "--frobnicate"], "--frobnicate"),
    "model missing": (["sample", "PROMPTS"], "--model"),
    "limit nought": (["sample", "PROMPTS", "-m", "TINY", "--limit", "0"], "--limit"),
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


def test_the_window_bounds_what_is_read_ahead(tmp_path: Path) -> None:
    """Records are read only as earlier ones are written: an engine that takes all it can get gets a window."""
    held: list[int] = []

    class Greedy:
        context = 512

        def generate(self, feed: Any) -> Any:
            waiting = []
            for entry in feed:
                if entry is not None:
                    waiting.append(entry)
                    continue
                held.append(len(waiting))
                yield from ((key, Completion("text", "stop", 0, 1, 1)) for key, _ in waiting)
                waiting = []

    def program(record: dict) -> Any:
        [done] = yield [Request("generate", [1], "")]
        return [{**record, "response": done.text}]

    source = write_jsonl(tmp_path / "in.jsonl", asks(50))
    with (tmp_path / "out.jsonl").open("wb", buffering=0) as stream:
        job = stage.Job("test", lambda record: None, program, Greedy, 512, {}, {})
        stage._Run(job, stage.Files(source, window=4, quiet=True), outputs.StreamOutput(stream), None).run()
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == [f"q{i}" for i in range(50)]
    assert max(held) == 4


def test_an_input_that_ends_early_is_not_taken_for_the_whole(here: Here, tiny: str, tmp_path: Path, prompts: str) -> None:
    out, lines = tmp_path / "out.jsonl", Path(prompts).read_text().splitlines(keepends=True)
    command = ("sample", "-", "-m", tiny, *EXACT, "-o", out)
    here(*command, stdin="".join(lines))
    fingerprint = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["fingerprint"]
    write_partial(out, out.read_bytes().splitlines(keepends=True)[:5], Path(prompts), fingerprint, torn=False)
    out.unlink()
    assert "the input ended before the 5 records" in here(*command, stdin="".join(lines[:2]), code=2).err
    assert not out.exists()


def test_a_manifest_that_is_none_is_said_to_be(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    outputs.FileOutput(str(out), {"a": 1}).close()
    Path(f"{out}.partial.manifest.json").write_text("{")
    with pytest.raises(CaiError, match="begin anew with --restart"):
        outputs.FileOutput(str(out), {"a": 1})
    Path(f"{out}.partial.manifest.json").write_text('{"fingerprint": {"a": 2}}')
    with pytest.raises(InputError, match=r"a \(2 before, 1 now\)"):
        outputs.FileOutput(str(out), {"a": 1})
