"""A model that reasons, through the commands: its reasoning is kept beside the answer, and nobody sees it unless asked to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_cli.method.prompts import quoted
from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl
from tests.templated import Seen, spy, template_models
from tests.tiny import TRANSFORMERS

ASK, WHY, REPLY = "How are you?", "Be brief.", "Well."
GREEDY = (*TRANSFORMERS, "--temperature", "0", "--quiet")
TEMPLATES = ("qwen3", "qwen3_5_think", "deepseek_r1_distill", "gptoss")
"""The model writes `<think>` itself; the template opens it, twice; special tokens enclose the reasoning."""


@pytest.fixture(scope="module", params=TEMPLATES)
def thinker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that was taught, by --learn-reasoning, to reason before one answer."""
    folder = tmp_path_factory.mktemp("thinker")
    model, _ = template_models(folder, request.param)
    turns = [quoted([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], ASK)]
    rewrite = [*turns, {"role": "assistant", "content": REPLY}, {"role": "user", "content": ASK}]
    asked = enumerate((ASK, turns, rewrite))
    from cai_cli.training import sft
    from tests.trainers import settings

    rows = [{"id": str(i), "prompt": prompt, "response": REPLY, "reasoning": WHY} for i, prompt in asked]
    source = write_jsonl(folder / "in.jsonl", rows)
    sft.train(
        settings("train-sft", [source], model, folder / "taught", lr=1e-2, steps=90, batch_size=3, max_length=4096),
        learn_reasoning=True,
    )
    return str(folder / "taught")


def test_a_model_that_reasons_answers_without_its_reasoning(here: Here, thinker: str, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"id": "a", "prompt": ASK}])
    here("sample", prompts, "-m", thinker, *GREEDY, "--max-tokens", "80", "-o", tmp_path / "answered")
    [record] = read_jsonl(tmp_path / "answered")
    assert (record["response"], record["reasoning"]) == (REPLY, WHY)
    assert record["meta"]["response"]["finish"] == "stop"

    cut_at = 10 if "<|channel|>" in (Path(thinker) / "chat_template.jinja").read_text() else 5  # after the opening tag
    here("sample", prompts, "-m", thinker, *GREEDY, "--max-tokens", cut_at, "-o", tmp_path / "cut")
    [record] = read_jsonl(tmp_path / "cut")
    assert record["response"] == ""
    assert WHY.startswith(record["reasoning"])
    assert record["meta"]["response"]["reasoning"] == "cut"
    err = here("critique", tmp_path / "cut", "-m", thinker, *GREEDY, "-o", tmp_path / "none", code=1).err
    assert "its reasoning was cut by --max-tokens" in err


def test_generated_rounds_keep_reasoning_apart(here: Here, thinker: str, tmp_path: Path) -> None:
    constitution = tmp_path / "one.yaml"
    constitution.write_text(f"name: t\nversion: 1\nprinciples:\n- id: one\n  critique: {json.dumps(ASK)}\n  revision: {ASK}\n")
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "prompt": "x", "response": "y"}])
    few = ("-c", constitution, "--few-shot", "0", "--max-tokens", "80")
    here("revise", source, "--from-response", "-m", thinker, *few, *GREEDY, "-o", tmp_path / "out")
    [round_] = read_jsonl(tmp_path / "out")[0]["rounds"]
    assert (round_["critique"], round_["revision"]) == (REPLY, REPLY)
    assert round_["reasoning"] == {"critique": WHY, "revision": WHY}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return spy(monkeypatch)


@pytest.mark.parametrize("shown", [False, True])
def test_judges_see_no_reasoning_unless_asked(
    here: Here, tiny: str, tiny_pm: str, seen: Seen, shown: bool, tmp_path: Path
) -> None:
    flags: list[Any] = ["--show-reasoning"] * shown + [*GREEDY[:2], "--quiet"]
    one = write_jsonl(tmp_path / "one.jsonl", [{"id": "a", "prompt": ASK, "response": f"<think>{WHY}</think>{REPLY}"}])
    two = write_jsonl(
        tmp_path / "two.jsonl", [{"id": "a", "prompt": ASK, "responses": [REPLY, "Bad."], "reasoning": [WHY, None]}]
    )
    from cai_cli.engines import models

    tokenizer = models.load_tokenizer(Path(tiny))
    here("critique", one, "-m", tiny, "--max-tokens", "2", *flags, "-o", tmp_path / "critiques")
    here("label", two, "-m", tiny, *flags, "-o", tmp_path / "labels")
    here("score", one, "-m", tiny_pm, *flags, "-o", tmp_path / "scores")
    texts = [str(tokenizer.decode(r.ids)) for r in seen.requests] + [str(tokenizer.decode(ids)) for ids in seen.scored]
    assert len(texts) == 4
    assert [WHY in text for text in texts] == [shown] * 4
    [labelled] = read_jsonl(tmp_path / "labels")
    assert REPLY in (labelled["chosen"][0]["content"], labelled["rejected"][0]["content"])
    here("train-pm", tmp_path / "labels", "-m", tiny, "--steps", "1", "--quiet", *flags[:shown], "-o", tmp_path / "pm")
    row = seen.trained[0]
    assert (WHY in str(tokenizer.decode(row["chosen_ids"] + row["rejected_ids"]))) is shown
    here("train-sft", one, "-m", tiny, "--steps", "1", "--quiet", "-o", tmp_path / "sft")
    assert WHY not in str(tokenizer.decode(seen.trained[0]["input_ids"]))


def test_a_spelled_tag_stays_text(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user's text and in an answer, with a template that would cut an answer at the tag."""
    model, _ = template_models(tmp_path, "qwen3")
    seen = spy(monkeypatch)
    said = "Write </think> and <think> here."
    record = {"id": "a", "prompt": [{"role": "user", "content": said}], "response": said}
    here(
        "critique", write_jsonl(tmp_path / "in.jsonl", [record]), "-m", model, "--max-tokens", "2", *GREEDY, "-o", tmp_path / "o"
    )
    [request] = seen.requests
    assert request.text.count(said) == 2
    from cai_cli.engines import models

    vocabulary = models.load_tokenizer(Path(model)).get_vocab()
    assert not {vocabulary["<think>"], vocabulary["</think>"]} & set(request.ids)
