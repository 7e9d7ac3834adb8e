"""The preference model that reads the principle: trained on each principle's own label, and asked by any of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from cai_cli.data.jsonl import Record
from cai_cli.engines import models
from cai_cli.errors import Skipped
from cai_cli.method import constitution, prompts
from cai_cli.method.tokens import Renderer
from cai_cli.pipeline import manifest
from cai_cli.training.conditioned import parts, warn_of_others
from tests.conftest import Here
from tests.rows import preference, read_jsonl, rl_prompts, write_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")
RULES = """
name: two
principles:
  - {id: short, compare: Choose the shorter response., weight: 3}
  - {id: long, compare: Choose the longer response.}
"""


def labelled(number: int, short: float) -> Record:
    """A pair whose chosen answer is the pair's second; the first is the shorter one with probability `short`."""
    label = {"principles": ["short", "long"], "p_first": 0.4, "orders": {}, "by_principle": {"short": short, "long": 1 - short}}
    sides = {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", "yes " * 9), ("rejected", "no"))}
    return {"id": f"p{number}", "prompt": f"Question {number}?", **sides, "p_chosen": 0.6, "label": label}


@pytest.fixture
def rules(tmp_path: Path) -> str:
    (tmp_path / "rules.yaml").write_text(RULES)
    return str(tmp_path / "rules.yaml")


def test_each_principle_has_its_own_example(rules: str) -> None:
    """The probability is that of the chosen answer. A label by one principle, and one without any, give one example each."""
    loaded = constitution.load(rules)
    found = parts(labelled(0, 0.9), loaded)
    assert [row["p_chosen"] for row in found] == pytest.approx([0.1, 0.9])
    assert [row["prompt"][0]["role"] for row in found] == ["system", "system"]
    assert "Choose the shorter response." in found[0]["prompt"][0]["content"]
    assert "Choose the longer response." in found[1]["prompt"][0]["content"]
    one = labelled(0, 0.9)
    one["label"] = {"principles": ["long"], "p_first": 0.3, "orders": {}}
    [row] = parts(one, loaded)
    assert row["p_chosen"] == pytest.approx(0.7)
    human = preference(0, 1.0)
    assert parts(human, loaded) == [human]


@pytest.mark.parametrize("by", [True, {"short": "x"}, {"short": 1.5}])
def test_a_label_in_another_shape_is_skipped(by: object, rules: str) -> None:
    label = {"principles": ["short"], "p_first": 0.75, "orders": {"ab": 0.75}, "by_principle": by}
    with pytest.raises(Skipped, match="label"):
        parts({**preference(1, 0.75), "label": label}, constitution.load(rules))


def test_the_model_learns_each_principle_and_is_asked_by_any(here: Here, rules: str, tiny: str, tmp_path: Path) -> None:
    """One principle prefers the short answer of every pair, the other one the long answer."""
    source, out = write_jsonl(tmp_path / "in.jsonl", [labelled(i, 1.0) for i in range(8)]), tmp_path / "pm"
    fit = ("--steps", 30, "--lr", 3e-3, "--batch-size", 8, "--grad-accum", 1, "--dtype", "float32", "--save-dtype", "float32")
    here("train-pm", source, "--conditioned", "-c", rules, "-m", tiny, *fit, "-o", out)
    assert models.target(out) == "principle"
    assert len(read_jsonl(out / "metrics.jsonl")) == 30

    scored = tmp_path / "scored.jsonl"
    here("score", source, "-m", out, "-c", rules, "-o", scored)
    renderer = Renderer(models.load_tokenizer(out))
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    for row in read_jsonl(scored):
        short, long = row["scores_by_principle"]["short"], row["scores_by_principle"]["long"]
        assert short["rejected"] > short["chosen"]
        assert long["chosen"] > long["rejected"]
        assert row["scores"]["chosen"] == pytest.approx((3 * short["chosen"] + long["chosen"]) / 4)
        judged = prompts.judged_by([{"role": "user", "content": row["prompt"]}], constitution.load(rules).get("short"))
        ids = renderer.score_request(prompts.pm_input(judged, "no", "chat")).ids
        with torch.no_grad():
            assert short["rejected"] == pytest.approx(model(input_ids=torch.tensor([ids])).logits[0, 0].item(), abs=1e-4)
    here("score", source, "-m", out, "-c", rules, "--principles", "long", "-o", tmp_path / "long.jsonl")
    assert [row["scores"] for row in read_jsonl(tmp_path / "long.jsonl")] == [
        pytest.approx(row["scores_by_principle"]["long"]) for row in read_jsonl(scored)
    ]

    asked = write_jsonl(tmp_path / "prompts.jsonl", rl_prompts(2))
    run = ("rl", asked, "-m", tiny, "--pm", out, "--steps", 1, "--num-generations", 2, "--max-tokens", 4, "-o", tmp_path / "rl")
    assert "judges by principles; give them with -c" in here(*run, code=2).err
    here(*run, "-c", rules)
    for sample in read_jsonl(tmp_path / "rl" / "samples.jsonl"):
        assert sample["score"] == pytest.approx((3 * sample["principles"]["short"] + sample["principles"]["long"]) / 4)


def test_labels_by_another_text_of_the_principles_are_warned_of(
    rules: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, loaded = tmp_path / "in.jsonl", constitution.load(rules)
    for sha256, warned in ((loaded.sha256, False), ("0" * 64, True)):
        manifest.write(f"{source}.manifest.json", {"constitution": {"name": "mine", "sha256": sha256}})
        warn_of_others([str(source)], loaded)
        assert ("in another text" in " ".join(capfd.readouterr().err.split())) == warned


def test_flags(here: Here, rules: str, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [labelled(0, 1.0)])
    train = ("train-pm", source, "-m", tiny, "-o", tmp_path / "pm")
    assert "-c is for --conditioned" in here(*train, "-c", rules, code=2).err
    assert "leave one of the two out" in here(*train, "--conditioned", "--target", "score", code=2).err
    assert "no principle 'short'" in here(*train, "--conditioned", "-c", "default", code=2).err
    assert "does not read principles" in here("score", source, "-m", tiny_pm, "-c", rules, code=2).err
