"""Training files: weights, bad lines, and what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_cli.errors import InputError
from cai_cli.training import data, examples, pm, sft
from tests.rows import preferences, read_jsonl, revisions, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_revisions_and_weights() -> None:
    record = revisions(1)[0]
    assert [answer.text for answer in examples.answers(record, "all")] == ["The answer is 0.", "It is 0, I think."]
    assert [answer.text for answer in examples.answers(record, "last")] == ["It is 0, I think."]
    names = [str(i) for i in range(10)]
    taken = data.weigh(names, 1.5, 0, str)
    assert taken[:10] == names
    assert len(set(taken[10:])) == 5
    assert taken == data.weigh(names, 1.5, 0, str)


BAD = {
    "empty file": ("", "the input is empty"),
    "missing field": ('{"prompt": "Hi"}\n', ":1: no 'response', 'completion' or 'messages' field"),
    "bad line": ('{"prompt": "Hi", "response": "x"}\n{"prompt": \n', ":2: not valid JSON"),
    "open round": ('{"prompt": "Hi", "response": "x", "rounds": [{"critique": "c"}]}\n', "run `cai revise` first"),
    "twice": ('{"id": "a", "prompt": "Hi", "response": "x"}\n' * 2, ":2: duplicate id 'a'; first seen on line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(name: str, tiny: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(InputError) as caught:
        sft.train(settings("train-sft", [str(tmp_path / "in.jsonl")], tiny, tmp_path / "out"))
    assert message in str(caught.value)
    assert not (tmp_path / "out.partial").exists()


def test_bad_lines_are_skipped_with_skip_bad(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*revisions(3), {"id": "bad", "prompt": "Hi"}])
    with open(source, "a") as stream:
        stream.write("nonsense\n")
    run = settings("train-sft", [source], tiny, tmp_path / "out", steps=1)
    with pytest.raises(InputError, match=r"in.jsonl:4: no 'response'.*skip such lines with --skip-bad"):
        sft.train(run)
    run.skip_bad = True
    sft.train(run)
    skipped = read_jsonl(tmp_path / "out" / "skipped.jsonl")
    assert [(row["file"], row["line"]) for row in skipped] == [(source, 4), (source, 5)]
    assert (skipped[0]["record"]["id"], skipped[1]["text"]) == ("bad", "nonsense")
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert (counts["records_in"], counts["records_out"], counts["skipped"]) == (5, 6, 2)
    assert f"skipped {source}:5: not valid JSON" in capsys.readouterr().err
    only = write_jsonl(tmp_path / "only.jsonl", [{"prompt": "Hi"}])
    with pytest.raises(InputError, match="nothing to train on: every line is bad"):
        sft.train(settings("train-sft", [only], tiny, tmp_path / "out", skip_bad=True))


def test_eval_records_that_are_trained_on_are_reported(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", preferences()[:4])
    other = write_jsonl(tmp_path / "eval.jsonl", preferences()[2:6])
    pm.train(settings("train-pm", [source], tiny, tmp_path / "out", steps=1, eval=[other]))
    assert "--eval shares 2 records with the training data" in capsys.readouterr().err
    with pytest.raises(InputError, match="give only one of them"):
        pm.train(settings("train-pm", [source], tiny, tmp_path / "out2", eval=[other], eval_fraction=0.1))
