"""RL by a feedback model: its rewards are the grades and labels of the commands, by principles drawn for each prompt."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from cai_cli import grade, label
from cai_cli.data.jsonl import Record
from cai_cli.engines import models, replicas
from cai_cli.engines.base import Failure, Feed, Key, Result
from cai_cli.engines.select import Setup
from cai_cli.errors import CaiError, Skipped
from cai_cli.method import constitution
from cai_cli.training import ranks, rl
from cai_cli.training.feedback import Feedback, FeedbackModel
from tests.conftest import Here
from tests.rows import read_jsonl, rl_prompts, write_jsonl
from tests.servers import tiny_server
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


def groups(samples: list[Record]) -> list[list[Record]]:
    """The answers of a step by their prompts."""
    return [[s for s in samples if s["source_id"] == i] for i in dict.fromkeys(s["source_id"] for s in samples)]


def run(tiny: str, out: Path, rows: list[Record], pms: list[str] | None = None, **how: Any) -> list[Record]:
    """The logged answers of a short run."""
    files = [write_jsonl(out.with_suffix(".jsonl"), rows)]
    judge = Feedback([tiny], constitution.load("default"), **how)
    rl.train(settings("rl", files, tiny, out, steps=2), rl.Rollout(pms or [], feedback=judge, max_tokens=6, samples_every=1))
    return read_jsonl(out / "samples.jsonl")


def test_a_grade_is_the_reward(tiny: str, tmp_path: Path) -> None:
    samples = run(tiny, tmp_path / "out", rl_prompts(4), principles=2)
    for group in groups(samples[:8]):
        ids = list(group[0]["principles"])
        assert len(ids) == 2
        for sample in group:
            assert list(sample["principles"]) == ids  # all answers to a prompt are judged alike
            [graded] = grade([sample], tiny, constitution="default", principles=",".join(ids), dtype="float32")
            assert {i: graded["grades"][i]["yes"] for i in ids} == pytest.approx(sample["principles"], abs=1e-4)
            assert sample["reward"] == sample["score"] == pytest.approx(fmean(sample["principles"].values()))
    drawn = {tuple(group[0]["principles"]) for step in (samples[:8], samples[8:]) for group in groups(step)}
    assert len(drawn) > 1
    metrics = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert metrics[0]["feedback_tokens"] > 0
    assert any(name.startswith("principle/") for name in metrics[0])


def test_a_comparison_gives_the_mean_win_rate(tiny: str, tmp_path: Path) -> None:
    samples = run(tiny, tmp_path / "out", rl_prompts(4), how="compare", few_shot=0)
    for group in groups(samples[:8]):
        [principle] = group[0]["principles"]
        record = {"id": "x", "prompt": group[0]["prompt"], "responses": [sample["response"] for sample in group]}
        flags = {"principles": principle, "few_shot": 0, "dtype": "float32"}
        won: list[list[float]] = [[] for _ in group]
        for row in label([record], tiny, constitution="default", **flags):
            i, j = row["label"]["pair"]
            won[i].append(row["label"]["p_first"])
            won[j].append(1 - row["label"]["p_first"])
        assert [sample["reward"] for sample in group] == pytest.approx([fmean(each) for each in won], abs=1e-4)
    assert fmean(sample["reward"] for sample in samples) == pytest.approx(0.5)


def test_a_rubric_replaces_the_constitution(tiny: str, tmp_path: Path) -> None:
    rubric = [{"id": "short", "question": "Is the answer short?", "weight": 3}, {"id": "kind", "question": "Is it kind?"}]
    rows = [{**row, "rubric": rubric} for row in rl_prompts(2)]
    for how in ("grade", "compare"):
        samples = run(tiny, tmp_path / how, rows, how=how, few_shot=0)
        for sample in samples:
            assert list(sample["principles"]) == ["short", "kind"]
            expected = (3 * sample["principles"]["short"] + sample["principles"]["kind"]) / 4
            assert sample["score"] == pytest.approx(expected)


def test_a_preference_model_and_a_feedback_model_are_summed(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = [write_jsonl(tmp_path / "in.jsonl", rl_prompts(4))]
    judge = Feedback([f"{tiny}=-2"], constitution.load("default"))
    rl.train(settings("rl", files, tiny, out, steps=1), rl.Rollout([f"{tiny_pm}=3"], feedback=judge, max_tokens=6))
    for sample in read_jsonl(out / "samples.jsonl"):
        assert sample["score"] == pytest.approx(3 * sample["scores"][0] - 2 * sample["scores"][1])
        assert sample["scores"][1] == pytest.approx(fmean(sample["principles"].values()))
    assert "- `default`, version `1`" in (out / "README.md").read_text()  # the constitution of the reward


def test_the_scores_of_two_feedback_models_by_the_same_principle_are_both_logged(tiny: str, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(tiny, other)
    files = [write_jsonl(tmp_path / "in.jsonl", rl_prompts(2))]
    judge = Feedback([tiny, f"{other}=2"], constitution.load("default"), few_shot=0)
    rl.train(settings("rl", files, tiny, out, steps=1), rl.Rollout([], feedback=judge, max_tokens=6))
    for sample in read_jsonl(out / "samples.jsonl"):
        [[first, one], [second, two]] = sample["principles"].items()
        assert (first.partition("/")[0], second.partition("/")[0]) == (Path(tiny).name, "other")
        assert first.partition("/")[2] == second.partition("/")[2]
        assert sample["scores"] == pytest.approx([one, two])


def test_a_feedback_model_that_can_judge_nothing_ends_the_run(tiny: str, tmp_path: Path) -> None:
    class Refusing:
        context, tokens = 4096, 0

        def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
            for entry in feed:
                if entry:
                    yield entry[0], Failure("no such parameter")

    judge = FeedbackModel(
        tiny, Path(tiny), 1.0, settings("rl", [], tiny, tmp_path), Feedback([tiny], constitution.load("default"))
    )
    judge.__dict__["engine"] = Refusing()  # as if it had been opened
    ask = [{"id": str(i), "messages": [{"role": "user", "content": "Why?"}], "ids": [], "text": ""} for i in range(15)]
    assert judge.scores(ask, ["So."] * 15, 1) == [None] * 15  # type: ignore[arg-type]
    with pytest.raises(CaiError, match="the answers to none of 16 prompts in a row: no such parameter"):
        judge.scores(ask[:1], ["So."], 2)  # type: ignore[arg-type]


def test_replicas_judge_as_the_trainer_does_and_end_with_it(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write_jsonl(tmp_path / "in.jsonl", rl_prompts(4))]
    made, opened = [], []
    start = replicas.spawned

    def spawned(environment: dict[str, str], again: bool) -> Any:
        opened.append(environment)
        return start(environment, again)

    monkeypatch.setattr(replicas, "spawned", spawned)
    for count in (0, 2):
        out = tmp_path / str(count)
        judge = Feedback([tiny], constitution.load("default"), few_shot=0, replicas=count)
        rl.train(settings("rl", files, tiny, out, steps=1), rl.Rollout([], feedback=judge, max_tokens=6))
        made.append([sample["reward"] for sample in read_jsonl(out / "samples.jsonl")])
    assert made[1] == pytest.approx(made[0], rel=1e-4)
    assert len(opened) == 2
    left = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "cai_cli.engines.replicas"], capture_output=True, text=True)
    assert not left.stdout


def test_replicas_have_the_gpus_after_the_one_that_is_trained_on(
    here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(replicas, "open_replicas", lambda opened_one, environments, *_, **__: opened.extend(environments))
    judge = Feedback([tiny], constitution.load("default"), replicas=2, gpus=["6", "7"])
    _ = FeedbackModel(tiny, Path(tiny), 1.0, settings("rl", [], tiny, tmp_path), judge)._replicas(
        Setup("transformers", Path(tiny), "float32")
    )
    assert opened == [{"CUDA_VISIBLE_DEVICES": "6"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    monkeypatch.setattr(ranks, "visible_gpus", lambda: 3)
    monkeypatch.setattr(models, "gpus", lambda: ["4", "5", "6"])
    path = write_jsonl(tmp_path / "in.jsonl", rl_prompts(2))
    asked = ("rl", path, "-m", tiny, "-o", tmp_path / "out", "--feedback", tiny, "--feedback-replicas")
    assert "besides the one to train on; there are 2" in here(*asked, 3, code=2).err
    assert "is for one training process" in here(*asked, 2, "--num-processes", 2, code=2).err


def test_flags(here: Here, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", rl_prompts(2))
    common = ("rl", path, "-m", tiny, "-o", tmp_path / "out", "--steps", 1, "--num-generations", 2, "--max-tokens", 4)
    assert "give a reward: --pm PM, or --feedback MODEL" in here(*common, code=2).err
    assert "does not read principles" in here(*common, "--pm", tiny_pm, "-c", "default", code=2).err
    assert "are for --feedback" in here(*common, "--pm", tiny_pm, "--few-shot", 1, code=2).err
    assert "needs --feedback-how compare" in here(*common, "--feedback", tiny, "--few-shot", 1, code=2).err
    assert "--principles-per-prompt 99" in here(*common, "--feedback", tiny, "--principles-per-prompt", 99, code=2).err
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "Hello?", "rubric": "short"}])
    assert "'criteria' must be a non-empty list" in here("rl", bad, *common[2:], "--feedback", tiny, code=2).err
    urls = ("--feedback-url", "http://127.0.0.1:1/v1", "--feedback-replicas", 1)
    assert "give one of them" in here(*common, "--feedback", tiny, *urls, code=2).err
    two = ("--feedback", tiny, "--feedback", f"{tiny}=2", "--feedback-replicas", 2)
    assert "are for one model" in here(*common, *two, code=2).err
    with tiny_server(tiny) as server:
        here(*common, "--feedback", tiny, "--feedback-url", server.url, "--feedback-how", "compare", "--few-shot", 0)
    [*_, last] = read_jsonl(tmp_path / "out" / "samples.jsonl")
    assert 0 <= last["reward"] <= 1
    assert "feedback" in (tmp_path / "out" / "README.md").read_text()


def test_a_constitution_of_critiques_grades_beside_an_ordinary_preference_model(
    here: Here, tiny: str, tiny_pm: str, tmp_path: Path
) -> None:
    """The preference model reads no principles: they are for the feedback model, which needs no `compare` texts to grade."""
    rules = tmp_path / "rules.yaml"
    rules.write_text("name: mine\nprinciples: [{id: polite, critique: Say if the answer is rude.}]\n")
    path = write_jsonl(tmp_path / "in.jsonl", rl_prompts(2))
    common = ("rl", path, "-m", tiny, "-o", tmp_path / "out", "--steps", 1, "--num-generations", 2, "--max-tokens", 4)
    here(*common, "--pm", tiny_pm, "--feedback", tiny, "-c", rules)
    for sample in read_jsonl(tmp_path / "out" / "samples.jsonl"):
        assert sample["score"] == pytest.approx(sample["scores"][0] + sample["principles"]["polite"])


@pytest.mark.parametrize("how", ["grade", "compare"])
def test_a_prompt_without_room_for_a_question_is_skipped(how: str, tiny: str, tmp_path: Path) -> None:
    """It leaves room for an answer in the model's context, and none for a question about one."""
    judge = FeedbackModel(tiny, Path(tiny), 1.0, settings("rl", [], tiny, tmp_path), Feedback([tiny], constitution.load("default"), how, few_shot=0))  # fmt: skip
    context = models.context_length(Path(tiny))
    for words, fits in ((10, True), (context - 60, False)):
        example: Any = {"id": "a", "messages": [{"role": "user", "content": "a " * words}], "ids": [], "text": ""}
        with nullcontext() if fits else pytest.raises(Skipped, match="the feedback model's context"):
            judge.require_length(example, 20)
