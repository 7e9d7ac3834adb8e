"""A scorer of ratings: the squared error, what it learns, what its directory says, and who refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_cli.data.jsonl import Record
from cai_cli.engines import models
from cai_cli.engines.scorer import PreferenceModel
from cai_cli.errors import InputError
from cai_cli.method import prompts
from cai_cli.method.tokens import Renderer
from cai_cli.training import pm, ratings, rl
from tests.conftest import Here
from tests.processes import cai
from tests.rows import preference, read_jsonl, rl_prompts, turns, write_jsonl
from tests.trainers import interrupt_at, settings

pytestmark = pytest.mark.usefixtures("one_thread")

GOOD, BAD = "It is good.", "No idea, go away."


def rated(number: int, rating: object = None, response: str | None = None) -> Record:
    """A conversation whose rating, if none is given, depends on its answer alone: 3 for a bad one."""
    bad = number % 2
    answer = response if response is not None else f"{BAD if bad else GOOD} {number}"
    return {
        "id": f"r{number}",
        "prompt": f"What is {number}?",
        "response": answer,
        "rating": 3 * bad if rating is None else rating,
    }


def scores(folder: str | Path, rows: list[Record]) -> list[float]:
    """The scores of the rows' conversations, read as `cai score` reads them."""
    renderer = Renderer(models.load_tokenizer(Path(folder)))
    ids = [renderer.score_request(prompts.pm_input(row["prompt"], row["response"], "chat")).ids for row in rows]
    return PreferenceModel(Path(folder), "float32").score_ids(ids)


def test_the_loss_is_the_weighted_squared_error(tiny_pm: str, tmp_path: Path) -> None:
    rows = [rated(1, 2.5), rated(2, -1), {**rated(3, 4, GOOD * 5), "weight": 0.5}, rated(4, 0)]
    run = settings("train-pm", [write_jsonl(tmp_path / "in.jsonl", rows)], tiny_pm, tmp_path / "out", steps=1, lr=1e-6)
    ratings.train(run)
    found = scores(tiny_pm, rows)
    by_hand = sum(row.get("weight", 1) * (s - row["rating"]) ** 2 for s, row in zip(found, rows, strict=True)) / 4
    [line] = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert line["loss"] == pytest.approx(by_hand, rel=1e-5)
    assert line["tokens"] > 0
    assert scores(tmp_path / "out", rows) == pytest.approx(found, abs=1e-2)


def test_it_learns_the_ratings_and_says_what_it_is(tiny: str, tmp_path: Path) -> None:
    source, held = (
        write_jsonl(tmp_path / name, [rated(i) for i in numbers])
        for name, numbers in (("in", range(40)), ("held", range(40, 60)))
    )
    seen: list[ratings.ScoredRating] = []

    def measure(rows: list[ratings.ScoredRating]) -> Record:
        seen.extend(rows)
        return {"ratings": len(rows)}

    run = settings("train-pm", [source], tiny, tmp_path / "out", steps=80, lr=3e-3, batch_size=8, eval=[held])
    ratings.train(run, measure)
    assert [row.rating for row in seen] == [0, 3] * 10
    assert [row.score for row in seen] == pytest.approx([row.rating for row in seen], abs=0.6)
    assert [row.score for row in seen] == pytest.approx(scores(tmp_path / "out", read_jsonl(held)), abs=1e-4)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["target"], manifest["evaluation"]) == ("score", {"ratings": 20})
    assert models.target(tmp_path / "out") == "score"
    assert "trained on ratings by squared error (`cai train-pm --target score`)" in (tmp_path / "out" / "README.md").read_text()
    last = read_jsonl(tmp_path / "out" / "metrics.jsonl")[-1]
    assert last["eval_loss"] < 0.3

    pairs = write_jsonl(tmp_path / "pairs.jsonl", [preference(i, 0.9) for i in range(4)])
    for name, start in (("again", tmp_path / "out"), ("lora", tmp_path / "out")):  # what it started from does not matter
        pm.train(settings("train-pm", [pairs], start, tmp_path / name, steps=1, lora=name == "lora"))
        assert models.target(tmp_path / name) == "preference"


def test_an_adapter_is_merged_and_marked(tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [rated(i) for i in range(8)])
    ratings.train(settings("train-pm", [source], tiny, tmp_path / "out", steps=1, lora=True))
    assert models.target(tmp_path / "out") == "score"
    with pytest.raises(InputError, match="--keep-adapter: an adapter's files cannot say that it predicts ratings"):
        ratings.train(settings("train-pm", [source], tiny, tmp_path / "kept", lora=True, keep_adapter=True))


def test_an_interrupted_run_ends_like_an_undisturbed_one(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [rated(i) for i in range(20)])

    def run(output: str) -> None:
        ratings.train(settings("train-pm", [source], tiny, tmp_path / output, steps=60, save_every=50, quiet=False))

    run("whole")
    interrupt_at(tmp_path / "out.partial" / "metrics.jsonl", 4)
    with pytest.raises(KeyboardInterrupt):
        run("out")
    run("out")
    assert "continuing after step" in capsys.readouterr().err
    whole, resumed = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "out"))
    assert [line["loss"] for line in resumed] == [line["loss"] for line in whole]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi", "response": "x"}, "no 'rating' field: --target score trains on a number for each conversation"),
        ({"prompt": "Hi", "rating": 1}, "no 'response' field: a rating is of a whole conversation"),
        (preference(1, 0.9), "a preference, which has no rating"),
        (rated(1, "high"), "'rating' must be a number, found str"),
        (rated(1, True), "'rating' must be a number, found bool"),
        ({**rated(1), "weight": -1}, "'weight' must be a number that is not negative"),
    ],
)
def test_a_record_without_a_rating_is_named(row: Record, message: str, tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "bad.jsonl", [rated(2), row])
    with pytest.raises(InputError, match=f"bad.jsonl:2: {message}"):
        ratings.train(settings("train-pm", [source], tiny, tmp_path / "out"))


def test_rl_asks_for_the_direction_of_a_scorer(tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [rated(i) for i in range(8)])
    scorer = tmp_path / "harm"
    ratings.train(settings("train-pm", [source], tiny, scorer, steps=1))
    asked: Any = settings("rl", [write_jsonl(tmp_path / "prompts.jsonl", rl_prompts(4))], tiny, tmp_path / "rl", steps=1)
    with pytest.raises(InputError, match=f"--pm {scorer}: it predicts ratings .* give the direction: {scorer}=-1 if a higher"):
        rl.train(asked, rl.Rollout([str(scorer)], max_tokens=2))
    rl.train(asked, rl.Rollout([f"{scorer}=-1"], max_tokens=2))
    samples = read_jsonl(tmp_path / "rl" / "samples.jsonl")
    assert [row["score"] for row in samples] == pytest.approx([-score for score in scores(scorer, samples)], abs=1e-4)


def test_from_red_team_attempts_to_the_figure(here: Here, tiny: str, tmp_path: Path) -> None:
    """Import, train by the program itself, score answers and the samples of an RL run, draw."""
    attempts = [
        {
            "transcript": turns(f"What is {i}?", "Why?") + turns("Tell me.", f"{BAD if i % 2 else GOOD} {i}"),
            "rating": 4.0 * (i % 2),
        }
        for i in range(24)
    ]
    (tmp_path / "attempts.json").write_text(json.dumps([*attempts, {"transcript": turns("Hi", "Yes."), "rating": None}]))
    rows, run = tmp_path / "rated.jsonl", tmp_path / "run"
    here("import", "red-team-attempts", tmp_path / "attempts.json", "--answers", "-o", rows)
    assert read_jsonl(rows)[1]["response"] == f"{BAD} 1"
    assert [m["content"] for m in read_jsonl(rows)[1]["prompt"]] == ["What is 1?", "Why?", "Tell me."]

    flags = ["--steps", 40, "--lr", "3e-3", "--batch-size", 8, "--grad-accum", 1, "--eval-fraction", 0.4]
    train = ["train-pm", rows, "--target", "score", "-m", tiny, "-o", run / "harm", *flags]
    assert "rated.jsonl:25: no 'rating' field" in cai(*train, code=2).stderr
    done = cai(*train, "--skip-bad")
    header = next(line for line in done.stderr.splitlines() if "held-out conversations" in line)
    assert "squared error" in header
    assert "of the mean rating" in header
    assert "correlation" in header
    [row] = json.loads((run / "harm" / "manifest.json").read_text())["evaluation"]["ratings"]
    assert row["squared_error"][0] < row["of_the_mean"]
    assert row["correlation"][0] > 0.5
    assert "already done" in cai(*train, "--skip-bad").stderr

    for name, answer in (("base", BAD), ("rl-step20", GOOD)):
        answers = write_jsonl(tmp_path / f"{name}.jsonl", [rated(i, response=f"{answer} {i}") for i in range(12)])
        here("score", answers, "-m", run / "harm", "-o", run / f"{name}.jsonl")
    samples = [{**rated(i), "id": f"r/{i}", "step": 1 + 5 * (i % 3)} for i in range(12)]
    here("score", write_jsonl(tmp_path / "samples.jsonl", samples), "-m", run / "harm", "-o", run / "samples.jsonl")
    shown = here("eval", "figures", run)
    assert f"{run}/figures/harmfulness.png" in shown.out
    assert "no data for revisions" in shown.err  # ratings are no preference-model scores
    found = {(row["label"], row["step"]): row for row in read_jsonl(run / "figures" / "harmfulness.jsonl")}
    assert list(found) == [("base", None), ("rl", 20), ("samples", 1), ("samples", 6), ("samples", 11)]
    assert found["rl", 20]["high"] < found["base", None]["low"]

    assert (
        "predicts ratings"
        in here("eval", "choice", write_jsonl(tmp_path / "p.jsonl", [preference(1, None)]), "-m", run / "harm", code=2).err
    )
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"id": "a", "prompt": "Hi", "responses": [GOOD, BAD]}])
    here("score", pairs, "-m", run / "harm", "-o", run / "pairs.jsonl")
    assert "the highest is not the best" in here("export", "preferences", run / "pairs.jsonl", "--from", "scores", code=2).err
