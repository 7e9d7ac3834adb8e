"""`cai eval figures`: the numbers of each figure, and what a run has no data for."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from cai_cli.data.jsonl import Record
from cai_cli.evaluation import figures
from cai_cli.pipeline import manifest
from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl


def made(path: Path, step: str, rows: list[Record]) -> None:
    """A file as if a command had written it."""
    path.parent.mkdir(exist_ok=True)
    write_jsonl(path, rows)
    manifest.write(f"{path}.manifest.json", {"step": step})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    draw, folder = random.Random(0), tmp_path / "run"
    for name, gain in (("many", 1.0), ("one", 0.4)):
        rows = []
        for i in range(60):
            start, noise = draw.gauss(0, 1), [draw.gauss(0, 0.2) for _ in range(2)]
            rounds = [
                {"principle": p, "critique": "c", "revision": "r"} for p in (("kind", "true") if i % 2 else ("true", "kind"))
            ]
            scores = [start + gain + noise[0], start + gain * 1.5 + noise[1]]
            rows.append(
                {"id": str(i), "prompt": "x", "response": "y", "rounds": rounds, "scores": {"response": start, "rounds": scores}}
            )
        made(folder / f"{name}.jsonl", "score", rows)
    for name, right in (("direct", 0.6), ("reasoned", 0.8)):
        made(
            folder / f"{name}.jsonl",
            "eval choice",
            [{"id": str(i), "judged": {"p_correct": draw.betavariate(right * 4, 4 - right * 4)}} for i in range(200)],
        )
    strengths = {"base": (0.0, 0.0), "sft": (-0.2, 0.9), "rl": (0.3, 1.6)}
    pairs = []
    for i in range(80):
        for a, b in (("base", "sft"), ("base", "rl"), ("sft", "rl")):
            labels = {}
            for axis, name in enumerate(("helpful", "harmless")):
                d = strengths[a][axis] - strengths[b][axis]
                labels[name] = {"p_first": 1 / (1 + 2.718281828 ** -(d + draw.gauss(0, 0.5))), "orders": {}}
            pairs.append(
                {
                    "id": f"{i}/{a}-{b}",
                    "source_id": str(i),
                    "models": [a, b],
                    "responses": ["one two", "three"],
                    "comparisons": labels,
                }
            )
    made(folder / "evaluation" / "compared.jsonl", "eval compare", pairs)
    for name, principles, vocabulary in (("few", 1, 50), ("all", 16, 500)):
        rows = [
            {
                "id": str(i),
                "prompt": "x",
                "response": "y",
                "rounds": [
                    {"principle": f"p{i % principles}", "revision": " ".join(f"w{draw.randrange(vocabulary)}" for _ in range(20))}
                ],
            }
            for i in range(60)
        ]
        made(folder / f"{name}.jsonl", "revise", rows)
    for name in ("rl", "rl-2"):
        (folder / name).mkdir()
        steps = [{"step": i, "reward": 5.0 + draw.random(), "kl": i / 1000, "length": 9.0, "refusals": 0.0} for i in range(50)]
        write_jsonl(folder / name / "metrics.jsonl", steps)
        manifest.write(folder / name / "manifest.json", {"step": "rl"})
    return folder


def test_every_figure_has_its_numbers_beside_it(here: Here, run: Path) -> None:
    done = here("eval", "figures", run)
    names = ["frontier", "revisions", "principles", "diversity", "accuracy", "calibration", "rl"]
    assert done.out.split() == [f"{run}/figures/{name}.png" for name in names]
    assert (run / "figures" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    svg = (run / "figures" / "frontier.svg").read_text()
    assert "<svg" in svg
    models = read_jsonl(run / "figures" / "frontier.jsonl")
    assert [row["model"] for row in models] == ["base", "sft", "rl"]
    assert models[0]["harmless"]["value"] == 0
    assert models[2]["harmless"]["low"] < 1.6 * 400 / 2.302585 < models[2]["harmless"]["high"] + 20
    steps = {(row["file"], row["revisions"]): row for row in read_jsonl(run / "figures" / "revisions.jsonl")}
    assert steps["many", 1]["value"] - steps["many", 0]["value"] == pytest.approx(1, abs=0.1)
    assert steps["one", 2]["value"] - steps["one", 0]["value"] == pytest.approx(0.6, abs=0.1)
    assert {row["principle"]: row["rounds"] for row in read_jsonl(run / "figures" / "principles.jsonl")} == {
        "kind": 120,
        "true": 120,
    }
    assert [row["judge"] for row in read_jsonl(run / "figures" / "accuracy.jsonl")] == ["direct", "reasoned"]
    one, sixteen = read_jsonl(run / "figures" / "diversity.jsonl")
    assert (one["file"], one["principles"], sixteen["file"], sixteen["principles"]) == ("few", 1, "all", 16)
    assert sixteen["distinct_2"] > one["distinct_2"]
    assert sixteen["self_bleu"] < one["self_bleu"]
    steps_of = [row["run"] for row in read_jsonl(run / "figures" / "rl.jsonl")]
    assert steps_of == ["rl"] * 50 + ["rl-2"] * 50
    assert "the vertical axis does not begin at 0" in (run / "figures" / "rl.svg").read_text()
    here("eval", "figures", run)  # again, over its own files
    assert (run / "figures" / "frontier.svg").read_text() == svg


def test_each_criterion_is_drawn_for_the_prompts_that_are_about_it(here: Here, run: Path) -> None:
    compared = run / "evaluation" / "compared.jsonl"
    rows = read_jsonl(compared)
    for row in rows:
        row["kind"], other = ("helpful", "harmless") if int(row["source_id"]) % 2 else ("red-team", "helpful")
        row["comparisons"][other]["p_first"] = 0.5  # as if the answers to these prompts did not differ in it
    write_jsonl(compared, rows)
    here("eval", "figures", run)
    found = {row["model"]: row for row in read_jsonl(run / "figures" / "frontier.jsonl")}
    assert all(row["apart"] for row in found.values())
    assert found["rl"]["harmless"]["value"] == pytest.approx(1.6 * 400 / 2.302585, abs=40)
    assert found["rl"]["helpful"]["value"] == pytest.approx(0.3 * 400 / 2.302585, abs=40)
    assert "harmlessness on red-team prompts" in (run / "figures" / "frontier.svg").read_text()


def test_elo_is_drawn_by_the_step_that_a_name_ends_in(here: Here, run: Path) -> None:
    compared = run / "evaluation" / "compared.jsonl"
    names = {"base": "base", "sft": "rl-step50", "rl": "rl-step100"}
    rows = [{**row, "models": [names[name] for name in row["models"]]} for row in read_jsonl(compared)]
    write_jsonl(compared, rows)
    assert f"{run}/figures/elo-by-step.png" in here("eval", "figures", run).out
    found = read_jsonl(run / "figures" / "elo-by-step.jsonl")
    assert [(row["label"], row["step"]) for row in found] == [
        (f"rl, {criterion}", step) for criterion in ("helpful", "harmless") for step in (50, 100)
    ]
    elo = {row["model"]: row["harmless"] for row in read_jsonl(run / "figures" / "frontier.jsonl")}
    assert found[3]["value"] == elo["rl-step100"]["value"] > found[2]["value"] > 0
    drawn = (run / "figures" / "elo-by-step.svg").read_text()
    assert "rl, harmless" in drawn
    assert "base is 0" in drawn
    # one step is no line, and a number alone is no step
    write_jsonl(compared, [{**row, "models": [name.replace("-step100", "-2") for name in row["models"]]} for row in rows])
    assert "no data for elo-by-step" in here("eval", "figures", run).err


def test_a_run_keeps_its_line_beside_a_model_of_the_same_name_without_a_step(tmp_path: Path) -> None:
    rows = [
        {"label": "rl", "step": step, "value": 1.0 + i, "low": 0.5, "high": 2.5, "records": 9}
        for i, step in enumerate((None, 10, 20))
    ]
    from matplotlib import pyplot

    _, axes = pyplot.subplots()
    figures.harmfulness(axes, rows)
    lines = [np.asarray(line.get_xdata()).tolist() for line in axes.get_lines()]
    assert [10, 20] in lines
    assert len(lines) == 2


@pytest.mark.parametrize("names", [["base", "sft"], ["base", "rl-step10", "rl-step20"]])
def test_predicted_ratings_are_a_figure_of_their_own(here: Here, tmp_path: Path, names: list[str]) -> None:
    draw = random.Random(0)
    for number, name in enumerate(names):
        rows = [
            {"id": str(i), "prompt": "x", "response": "y", "scores": {"response": 3.0 - number + draw.gauss(0, 0.3)}}
            for i in range(50)
        ]
        made(tmp_path / "run" / f"{name}.jsonl", "score", rows)
        about = {"step": "score", "model": {"name": "harm", "sha256": "0" * 64, "dtype": "float32", "target": "score"}}
        manifest.write(tmp_path / "run" / f"{name}.jsonl.manifest.json", about)
    several = [{"id": "a", "prompt": "x", "responses": ["y", "z"], "scores": {"responses": [1.0, 2.0]}}]
    made(tmp_path / "run" / "tested.jsonl", "score", several)
    manifest.write(tmp_path / "run" / "tested.jsonl.manifest.json", about)
    done = here("eval", "figures", tmp_path / "run")
    assert done.out.split() == [f"{tmp_path}/run/figures/harmfulness.png"]
    found = read_jsonl(tmp_path / "run" / "figures" / "harmfulness.jsonl")
    assert [row["records"] for row in found] == [50] * len(names) + [1]
    assert found[-1]["value"] == 1.5
    for number, row in enumerate(found[:-1]):
        assert row["low"] < row["value"] < row["high"]
        assert row["value"] == pytest.approx(3 - number, abs=0.2)
    assert [row["step"] for row in found[:-1]] == [None, *([None] if len(names) == 2 else [10, 20])]
    drawn = (tmp_path / "run" / "figures" / "harmfulness.svg").read_text()
    assert "mean predicted rating" in drawn
    assert ("RL training step" in drawn) == (len(names) == 3)


def test_a_figure_without_data_is_named(here: Here, run: Path, tmp_path: Path) -> None:
    (run / "evaluation" / "compared.jsonl").unlink()
    done = here("eval", "figures", run, "-o", tmp_path / "elsewhere")
    assert "no data for frontier: cai eval compare base.jsonl rl.jsonl -m JUDGE -o RUN/compared.jsonl" in done.err
    assert not (tmp_path / "elsewhere" / "frontier.png").exists()
    assert (tmp_path / "elsewhere" / "accuracy.png").exists()
    assert "not a folder" in here("eval", "figures", tmp_path / "none", code=2).err
