"""The judge against plain forward passes: orders, principles, reasoning, shared prefixes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cai_cli.engines.base import Choice
from cai_cli.method import constitution, feedback, prompts
from cai_cli.method.judge import Judge, JudgeSettings
from cai_cli.method.prompts import OPTIONS, REASONED_ANSWER
from cai_cli.method.tokens import Renderer
from cai_cli.pipeline.seeds import draw
from tests.conftest import Here
from tests.rows import read_jsonl
from tests.tiny import TRANSFORMERS


def test_a_label_is_the_mean_of_both_orders(here: Here, tiny: str, pairs: str, renderer: Renderer, tmp_path: Path) -> None:
    """Against plain forward passes: each order's probability, their mean, and the summary of the position bias."""
    out = tmp_path / "out.jsonl"
    here("label", pairs, *TRANSFORMERS, "-m", tiny, "--few-shot", 0, "--dtype", "float32", "-o", out)
    plain, found = AutoModelForCausalLM.from_pretrained(tiny).eval(), constitution.load(constitution.DEFAULT)
    rows = read_jsonl(out)
    letters = [renderer.tokenizer(f"{prompts.ANSWER}{letter}", add_special_tokens=False).input_ids[-1] for letter in OPTIONS]
    for row in rows:
        label = row["label"]
        assert len(label["principles"]) == 1
        principle = found.get(label["principles"][0])
        for order, letter in (("ab", 0), ("ba", 1)):
            first, second = row["responses"] if order == "ab" else row["responses"][::-1]
            request = renderer.choice(prompts.comparison(row["prompt"], first, second, principle, "chat"), OPTIONS)
            with torch.no_grad():
                logits = plain(torch.tensor([request.ids])).logits[0, -1]
            want = torch.softmax(logits[letters], -1)[letter]
            assert label["orders"][order] == pytest.approx(float(want), abs=1e-4)
        assert label["p_first"] == pytest.approx(fmean(label["orders"].values()))
        assert row["p_chosen"] == max(label["p_first"], 1 - label["p_first"])
        assert row["chosen"][0]["content"] == row["responses"][0 if label["p_first"] >= 0.5 else 1]
    summary = json.loads(Path(f"{out}.manifest.json").read_text())["summary"]
    differences = [row["label"]["orders"]["ab"] - row["label"]["orders"]["ba"] for row in rows]
    assert summary["position_bias"]["mean_difference"] == pytest.approx(fmean(differences))
    flips = [(r["label"]["orders"]["ab"] > 0.5) != (r["label"]["orders"]["ba"] > 0.5) for r in rows]
    assert summary["position_bias"]["flipped"] == fmean(flips)


def test_each_probability_is_clamped_before_the_mean(renderer: Renderer) -> None:
    """The judge's program, answered by hand: 0.9 for the first answer in one order, 0.5 in the other."""
    asker: Any = SimpleNamespace(seed=0, format="chat", renderer=renderer, shown=lambda record: record)
    settings = JudgeSettings(few_shot=0, clamp=(0.4, 0.6))
    asked = Judge(asker, constitution.load(constitution.DEFAULT), settings).judge(
        {"id": "q", "prompt": "Why?", "responses": ["So.", "No."]}, [(0, 1)]
    )
    assert len(next(asked)) == 2
    with pytest.raises(StopIteration) as done:
        asked.send([Choice({"A": math.log(a), "B": math.log(1 - a)}, 1) for a in (0.9, 0.5)])
    [[label], _] = done.value.value
    assert label["p_first"] == pytest.approx(0.55)  # clamped after the mean of 0.7 it would be 0.6
    assert label["orders"] == {"ab": pytest.approx(0.6), "ba": pytest.approx(0.5)}


def test_one_order_is_half_of_both(here: Here, tiny: str, pairs: str, tmp_path: Path) -> None:
    labels = {}
    for order in ("both", "ab", "ba"):
        here("label", pairs, *TRANSFORMERS, "-m", tiny, "--orders", order, "--deterministic", "-o", tmp_path / order)
        labels[order] = [row["label"] for row in read_jsonl(tmp_path / order)]
    for both, ab, ba in zip(*labels.values(), strict=True):
        assert both["orders"] == {**ab["orders"], **ba["orders"]}
        assert ab["p_first"] == ab["orders"]["ab"]


def test_several_principles_are_asked_and_each_is_kept(here: Here, tiny: str, pairs: str, tmp_path: Path) -> None:
    here("label", pairs, *TRANSFORMERS, "-m", tiny, "--principles-per-pair", 3, "--limit", 4, "-o", tmp_path / "three")
    for row in read_jsonl(tmp_path / "three"):
        label = row["label"]
        assert len(set(label["principles"])) == 3
        values = [label["by_principle"][i] for i in label["principles"]]
        assert label["p_first"] == pytest.approx(fmean(values))
        assert label["spread"] == pytest.approx((fmean(v * v for v in values) - fmean(values) ** 2) ** 0.5, abs=1e-6)
    here("label", pairs, *TRANSFORMERS, "-m", tiny, "--limit", 4, "-o", tmp_path / "one")
    firsts = [row["label"]["principles"][0] for row in read_jsonl(tmp_path / "three")]
    assert [row["label"]["principles"] for row in read_jsonl(tmp_path / "one")] == [[i] for i in firsts]
    here("label", pairs, *TRANSFORMERS, "-m", tiny, "--principles-per-pair", "all", "--limit", 1, "-o", tmp_path / "all")
    assert len(read_jsonl(tmp_path / "all")[0]["label"]["by_principle"]) == 16
    err = here("label", pairs, *TRANSFORMERS, "-m", tiny, "--principles-per-pair", 17, code=2).err
    assert "give a number from 1 to 16, or all" in err


@pytest.mark.parametrize("format", ["chat", "hh"])
def test_reasoned_labels_keep_their_reasoning_and_are_clamped(
    here: Here, tiny: str, pairs: str, renderer: Renderer, format: str, tmp_path: Path
) -> None:
    """The option is read after the model's own reasoning: a plain forward pass over the whole text gives the same."""
    model = (*TRANSFORMERS, "-m", tiny, "--format", format, "--dtype", "float32")
    how = (*model, "--cot", "--keep-cut", "--few-shot", 1, "--max-tokens", 8, "--limit", 3)
    here("label", pairs, *how, "--clamp", "0,1", "-o", tmp_path / "free")
    plain, found = AutoModelForCausalLM.from_pretrained(tiny).eval(), constitution.load(constitution.DEFAULT)
    free = read_jsonl(tmp_path / "free")
    assert [row["source_id"] for row in free] == ["q0", "q1", "q2"]
    for row in free:
        assert [entry["order"] for entry in row["label"]["reasoning"]] == ["ab", "ba"]
        shown = feedback.shown_reasoning(found, 1, 0, draw(0, "prefix", row["source_id"]) % feedback.PREFIXES)
        for entry in row["label"]["reasoning"]:
            first, second = row["responses"] if entry["order"] == "ab" else row["responses"][::-1]
            asked = prompts.reasoning(row["prompt"], first, second, found.get(entry["principle"]), format, shown)
            request = renderer.choice(prompts.after_reasoning(asked, entry["text"]), OPTIONS)
            assert request.text.endswith(REASONED_ANSWER)
            with torch.no_grad():
                logits = plain(torch.tensor([request.ids])).logits[0, -1]
            want = torch.softmax(logits[list((request.options or {}).values())], -1)
            assert entry["p_first"] == pytest.approx(float(want[0 if entry["order"] == "ab" else 1]), abs=1e-4)
            assert entry["meta"]["completion_tokens"] <= 8
    here("label", pairs, *how, "--cot-samples", 2, "-o", tmp_path / "clamped")
    clamped = read_jsonl(tmp_path / "clamped")
    assert len(clamped) == 3
    for row in clamped:
        reasoning = row["label"]["reasoning"]
        assert len(reasoning) == 4
        assert len({entry["meta"]["seed"] for entry in reasoning}) == 4
        assert all(0.4 <= entry["p_first"] <= 0.6 for entry in reasoning)
        assert row["label"]["p_first"] == pytest.approx(fmean(entry["p_first"] for entry in reasoning))
        assert 0.5 <= row["p_chosen"] <= 0.6


def test_few_shot_labels_reuse_their_prefixes(here: Here, tiny: str, pairs: str, renderer: Renderer, tmp_path: Path) -> None:
    """At most 16 prefixes are computed, whatever the number of queries, and the run reports how much it reused.

    The two orders of a pair also share the conversation and the principle.
    """
    done = here("label", pairs, *TRANSFORMERS, "-m", tiny, "-o", tmp_path / "out")
    counts = json.loads((tmp_path / "out.manifest.json").read_text())["counts"]
    found = constitution.load(constitution.DEFAULT)
    drawn = [draw(0, "prefix", f"q{i}") % feedback.PREFIXES for i in range(12)]
    lengths = {}
    for number in set(drawn):
        shown = feedback.shown_comparisons(found, None, 0, number)
        asked = prompts.comparison("Hi", "a", "b", found.principles[0], "chat", shown)
        lengths[number] = renderer.choice(asked, OPTIONS).shared
    assert len(lengths) < len(drawn)  # some are shared by several pairs
    own = counts["prompt_tokens"] - sum(2 * lengths[number] for number in drawn)
    computed = counts["prompt_tokens"] - counts["reused_tokens"] - sum(lengths.values())  # each prefix once
    assert own / 2 < computed < 0.8 * own
    assert f"{counts['reused_tokens']:,} reused" in done.err


def test_each_pair_draws_its_own_principle_and_not_that_of_the_critique(
    here: Here, tiny: str, renderer: Renderer, tmp_path: Path
) -> None:
    """Three pairs of a record, over many ids: their principles agree with each other, and with the critique's, only by chance."""
    from dataclasses import dataclass

    from cai_cli.data.jsonl import Record
    from cai_cli.engines.base import Request
    from cai_cli.method.constitution import ROUND
    from cai_cli.method.judge import Judge, JudgeSettings

    @dataclass
    class OnlyDraws:
        renderer: Renderer
        format: str = "chat"
        seed: int = 0

        def request(self, prompt: prompts.Prompt, *parts: str | int) -> Request:
            raise AssertionError("a principle is drawn without a request")

        def shown(self, record: Record) -> Record:
            return record

    found = constitution.load(constitution.DEFAULT)
    judge = Judge(OnlyDraws(renderer), found, JudgeSettings())
    agree = {"pairs": 0, "critique": 0}
    for i in range(400):
        record = {"id": f"q{i}"}
        first, second, third = (judge.principles(record, pair)[0] for pair in ((0, 1), (0, 2), (1, 2)))
        agree["pairs"] += (first == second) + (second == third) + (first == third)
        agree["critique"] += first == found.draw(0, ROUND, record["id"], 0)
    # one in sixteen agrees by chance: 75 of the 1,200 comparisons of pairs, 25 of the 400 others
    for name, count in agree.items():
        assert count < (2 * 75 if name == "pairs" else 2 * 25), name
    records = [{"id": f"q{i}", "prompt": "Hi", "responses": ["A.", "B.", "C."]} for i in range(4)]
    source = tmp_path / "three.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    here("label", source, *TRANSFORMERS, "-m", tiny, "--few-shot", 0, "-o", tmp_path / "out.jsonl")
    for row in read_jsonl(tmp_path / "out.jsonl"):  # what the command writes is what the judge draws
        one, other = row["label"]["pair"]
        assert row["label"]["principles"] == [judge.principles({"id": row["source_id"]}, (one, other))[0].id]
