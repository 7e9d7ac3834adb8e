"""`cai plan run`: a run of any size from the manifests of a small one, written by hand, and made by the real commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_cli.report import growth, run
from cai_cli.report.growth import Growth, Row
from tests.conftest import Here, in_process
from tests.rows import asks, write_jsonl
from tests.tiny import TRANSFORMERS


def step(folder: Path, name: str, kind: str, inputs: dict[str, int | None], size: int, **made: Any) -> None:
    """An output of `size` bytes with a manifest that names `inputs` and their records. The time grows with each call."""
    counts = made.pop("counts", None)
    target = folder / name
    if kind in growth.TRAINERS:
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"x" * size)
        place = target / "manifest.json"
    else:
        target.write_bytes(b"x" * size)
        place = folder / f"{name}.manifest.json"
    made["inputs"] = [
        {"path": f"{folder}/{path}", "records": n} if n else {"path": f"{folder}/{path}"} for path, n in inputs.items()
    ]
    made["finished"] = f"2026-01-01T00:00:{len(list(folder.rglob('*manifest.json'))):02}+00:00"
    place.write_text(json.dumps({"step": kind, "command": ["cai", kind], **made, **({"counts": counts} if counts else {})}))


def made_of(records: int, read: int, generated: int, seconds: float, reused: int = 0) -> dict[str, float]:
    """The counts of a generating step."""
    return {
        "records_in": records, "records_out": records, "prompt_tokens": read, "completion_tokens": generated,
        "reused_tokens": reused, "seconds": seconds,
    }  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A run of 10 red-team prompts with one round, 20 helpful prompts, 5 held-out ones, and SFT on two processes."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name, records in (("helpful.jsonl", 20), ("all.jsonl", 15)):
        write_jsonl(folder / name, asks(records))
    step(folder, "held-out.jsonl", "split", {"all.jsonl": None}, 50)
    step(folder, "held-answers.jsonl", "sample", {"held-out.jsonl": None}, 70, counts=made_of(5, 50, 25, 5))
    step(folder, "red.jsonl", "split", {"all.jsonl": None}, 100)
    step(folder, "responses.jsonl", "sample", {"red.jsonl": None}, 200, counts=made_of(10, 100, 50, 36))
    step(folder, "critiques.jsonl", "critique", {"responses.jsonl": None}, 300, counts=made_of(10, 400, 60, 40, reused=300))
    step(folder, "revisions.jsonl", "revise", {"critiques.jsonl": None}, 350, counts=made_of(10, 500, 70, 44))
    counts = {"records_in": 30, "records_out": 30, "steps": 6, "tokens": 300, "seconds": 18}
    inputs: dict[str, int | None] = {"revisions.jsonl": 10, "helpful.jsonl": 20}
    step(folder, "sft", "train-sft", inputs, 1000, counts=counts, processes=2, fingerprint={"revisions": "all"})
    step(folder, "scores.jsonl", "score", {"revisions.jsonl": None}, 400, counts=made_of(10, 600, 0, 6))
    return folder


def planned(folder: Path, rounds: int = 1, rates: dict[str, float] | None = None, **sizes: float) -> dict[str, Row]:
    """The rows by their names; `sizes` are those of grow(), with `all` for the name ""."""
    found = Growth(run.steps(folder))
    found.grow({"" if name == "all" else f"{name}.jsonl": n for name, n in sizes.items()})
    return {row.name: row for row in found.rows(rounds, rates or {})}


def test_everything_that_trains_grows_with_the_prompts_and_an_evaluation_does_not(small: Path) -> None:
    rows = planned(small, all=1000)
    answers = rows["responses.jsonl"]
    assert (answers.records_in, answers.read, answers.generated, answers.seconds) == (1000, 10_000, 5_000, 3600)
    assert answers.disk == 20_000
    assert rows["critiques.jsonl"].reused == 30_000
    assert rows["red.jsonl"].disk == 10_000  # it counts nothing, but it grows
    assert "held-out.jsonl" not in rows
    held = rows["held-answers.jsonl"]  # the same first file as the training prompts, but divided from them
    assert (held.records_in, held.read, held.seconds, held.disk) == (5, 50, 5, 70)
    sft = rows["sft"]
    assert (sft.records_in, sft.steps, sft.read) == (3000, 600, 30_000)
    assert sft.seconds == 18 * 2 * 100  # two processes
    assert 1000 <= sft.disk < 2000  # a model keeps its size
    whole = growth.total(list(rows.values()))
    assert whole.generated == 100 * (50 + 60 + 70) + 25


def test_a_file_of_its_own_size_changes_what_is_made_of_it(small: Path) -> None:
    rows = planned(small, all=1000, helpful=40)
    assert rows["revisions.jsonl"].records_out == 1000
    assert rows["sft"].records_in == 1000 + 40
    assert planned(small, rounds=4, all=1000, helpful=40)["sft"].records_out == pytest.approx(4040)  # an example per revision
    assert planned(small, helpful=40)["revisions.jsonl"].records_out == 10


def test_more_rounds_repeat_the_last_one_and_what_reads_all_revisions_grows(small: Path) -> None:
    rows = planned(small, rounds=3, all=20)
    names = list(rows)
    begin = names.index("revisions.jsonl")
    again = [f"{half}.jsonl, round {i}" for i in (2, 3) for half in ("critiques", "revisions")]
    assert names[begin + 1 : begin + 5] == again
    one, last = rows["revisions.jsonl"], rows["revisions.jsonl, round 3"]
    assert (last.read, last.generated, last.seconds) == (one.read, one.generated, one.seconds)
    assert [rows[name].disk for name in ("revisions.jsonl", *again[1::2])] == [700, 700 + 300, 700 + 600]  # a round adds 2 * 150
    assert rows["sft"].records_in == 60
    assert rows["sft"].read == pytest.approx(300 * (3 * 10 + 20) / 30 * 2)
    assert rows["scores.jsonl"].records_in == 20
    assert rows["scores.jsonl"].read == 600 * 2 * 4 / 2  # the answer and three revisions instead of one


def test_rounds_of_one_command_stay_one_file(small: Path) -> None:
    manifest = small / "revisions.jsonl.manifest.json"
    made = json.loads(manifest.read_text())
    made |= {"inputs": [{"path": f"{small}/responses.jsonl"}], "fingerprint": {"rounds": 2}}
    manifest.write_text(json.dumps(made))
    row = planned(small, rounds=3, all=10)["revisions.jsonl, round 3"]
    assert (row.read, row.disk) == (250, 75)


def test_a_stated_rate_replaces_the_time(small: Path) -> None:
    rows = planned(small, all=10, rates={"": 10, "train-sft": 3})
    assert rows["responses.jsonl"].seconds == (100 + 50) / 10
    assert rows["critiques.jsonl"].seconds == (400 + 60 - 300) / 10  # without the reused
    assert rows["sft"].seconds == 300 / 3
    assert planned(small, all=10, rates={"train-sft": 3})["responses.jsonl"].seconds == 36


def test_without_a_trainer_everything_grows(small: Path) -> None:
    (small / "sft" / "manifest.json").unlink()
    rows = planned(small, all=10)
    assert rows["held-answers.jsonl"].records_in == 10  # the first file of this run
    assert rows["responses.jsonl"].records_in == 20


def test_the_table_has_hours_for_the_devices_a_sum_and_what_was_assumed(here: Here, small: Path) -> None:
    (small / "more.jsonl.partial.manifest.json").write_text(json.dumps({"fingerprint": {"step": "sample"}}))
    done = here("plan", "run", small, "--prompts", "1,000", "--gpus", 2)
    lines = done.out.splitlines()
    row = next(line for line in lines if line.startswith("responses.jsonl")).split()
    assert row[1:] == ["sample", "1,000", "1,000", "10,000", "5,000", "1.00", "0.50", "20.0", "kB"]
    assert next(line for line in lines if line.startswith("all ")).split()[1:4] == ["190,050", "18,025", "30,000"]
    assert "red.jsonl 1,000 (10 in this run), helpful.jsonl 2,000 (20 in this run), held-out.jsonl 5\n" in done.out
    assert "includes loading its model" in done.out
    assert "2 devices" in done.out
    assert "left out, because they are not finished: more.jsonl" in done.err
    stated = here("plan", "run", small, "--prompts", 1000, "--rate", "2,000").out
    assert "2,000 tokens/s in every step" in stated
    assert "includes loading" not in stated


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompts", "many"], "--prompts many: give a number above 0, or NAME=NUMBER"),
        (["--prompts", "-1"], "--prompts -1: give a number above 0"),
        (["--prompts", "else.jsonl=5"], "the run did not begin with such a file; it did with"),
        (["--prompts", "5", "--rate", "label=9"], "--rate label=...: "),
        (["--prompts", "5", "--rate", "nan"], "--rate nan: give a number above 0"),
    ],
)
def test_bad_flags_are_named(here: Here, small: Path, flags: list[str], message: str) -> None:
    assert message in here("plan", "run", small, *flags, code=2).err


def test_a_run_that_cannot_be_planned_is_refused(here: Here, small: Path, tmp_path: Path) -> None:
    assert "no such folder" in here("plan", "run", tmp_path / "nothing", "--prompts", 5, code=2).err
    made = json.loads((small / "revisions.jsonl.manifest.json").read_text()) | {"fingerprint": {"rounds": 2}}
    (small / "revisions.jsonl.manifest.json").write_text(json.dumps(made))
    done = here("plan", "run", small, "--prompts", 5, "--rounds", 1, code=2)
    assert "has 2 rounds; give a folder that has from 1 to 1" in done.err
    empty = tmp_path / "empty"
    empty.mkdir()
    step(empty, "red.jsonl", "split", {}, 5)
    assert "no step of the run counts its records" in here("plan", "run", empty, "--prompts", 5, code=2).err


def test_a_manifest_of_another_form_is_named(here: Here, small: Path) -> None:
    made = json.loads((small / "sft" / "manifest.json").read_text())
    made["inputs"][0] |= {"records": "ten", "path": f"{small}/sft"}  # no number, and its own ancestor
    made |= {"processes": "two", "fingerprint": [1]}
    (small / "sft" / "manifest.json").write_text(json.dumps(made))
    assert "sft/manifest.json:1: not a manifest" in here("plan", "run", small, "--prompts", 100, code=2).err


def test_a_real_run_of_its_own_size_has_its_own_sums_and_a_larger_one_is_as_planned(
    here: Here, tiny: str, tmp_path: Path
) -> None:
    prompts = [{"id": f"q{i}", "prompt": "What is a locksmith?"} for i in range(8)]
    quick = ("-m", tiny, *TRANSFORMERS, "--max-tokens", 6, "--temperature", 1)
    for name, count in (("small", 4), ("large", 8)):
        folder = tmp_path / name
        folder.mkdir()
        given = write_jsonl(folder / "prompts.jsonl", prompts[:count])
        assert in_process("sample", given, *quick, "-o", folder / "responses.jsonl") == 0
        revise = ("revise", folder / "responses.jsonl", "--from-response", "--few-shot", 0, *quick)
        assert in_process(*revise, "-o", folder / "revisions.jsonl") == 0
        train = ("train-sft", folder / "revisions.jsonl", "-m", tiny, "--keep-cut", "--steps", 1)
        assert in_process(*train, "-o", folder / "sft") == 0
    found = Growth(run.steps(tmp_path / "small"))
    found.grow({"": 4})
    small = {row.name: row for row in found.rows(1, {})}
    real = {step.name: step for step in run.steps(tmp_path / "small")}
    assert sum(row.read + row.generated for row in small.values()) == sum(step.tokens for step in real.values())
    assert small["responses.jsonl"].disk == (tmp_path / "small" / "responses.jsonl").stat().st_size
    found.grow({"": 8})
    doubled, large = {row.name: row for row in found.rows(1, {})}, {step.name: step for step in run.steps(tmp_path / "large")}
    for name in ("responses.jsonl", "revisions.jsonl"):
        assert doubled[name].records_out == large[name].counts["records_out"] == 8
    assert doubled["responses.jsonl"].read == large["responses.jsonl"].counts["prompt_tokens"]
    assert doubled["sft"].records_in == large["sft"].counts["records_in"] == 8
    out = here("plan", "run", tmp_path / "small", "--prompts", 8).out
    assert "prompts.jsonl 8 (4 in this run)" in out


def test_shards_count_once_whether_or_not_they_were_joined(here: Here, tiny: str, tmp_path: Path) -> None:
    quick = ("-m", tiny, *TRANSFORMERS, "--max-tokens", 6, "--temperature", 1)
    (folder := tmp_path / "run").mkdir()
    given = write_jsonl(folder / "prompts.jsonl", asks(9))
    for part in (1, 2, 3):
        assert in_process("sample", given, *quick, "--shard", f"{part}/3", "-o", folder / f"responses-{part}.jsonl") == 0
    alone = here("plan", "run", folder, "--prompts", 90).out
    assert "prompts.jsonl 90 (9 in this run)" in alone
    assert "responses-1.jsonl and 2 more shards" in alone
    assert in_process("join", *(folder / f"responses-{part}.jsonl" for part in (1, 2, 3)), "-o", folder / "responses.jsonl") == 0
    joined = here("plan", "run", folder, "--prompts", 90).out
    assert "prompts.jsonl 90 (9 in this run)" in joined
    assert [step.name for step in run.steps(folder)] == ["responses.jsonl"]
    rows = [
        line.replace("-1.jsonl and 2 more shards", ".jsonl").split() for line in (alone, joined) for line in line.splitlines()
    ]
    first, second = [row for row in rows if row[:1] == ["responses.jsonl"]]
    assert first == second
