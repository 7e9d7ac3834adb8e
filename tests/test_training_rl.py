"""RL: the reward is the preference model's, prompts are text, the KL holds, and a stopped run goes on."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cai_cli import models, prompts
from cai_cli.errors import InputError
from cai_cli.tokens import Renderer
from cai_cli.training import data, rl
from cai_cli.training.settings import Settings
from tests.tiny import read_jsonl, write_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(files: list[str], model: str, output: Path, **more: Any) -> Settings:
    given = {"lr": 3e-3, "batch_size": 2, "steps": 6, "dtype": "float32", "quiet": True} | more
    return Settings(step="rl", files=files, model=model, output=str(output), **given)


def asked(n: int) -> list[dict[str, Any]]:
    return [{"id": f"q{i}", "prompt": f"What is {i} plus <|im_end|> {i}?", "response": "kept"} for i in range(n)]


def test_rewards_are_the_preference_models(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    rows = [*asked(5), {"id": "long", "prompt": "word " * 200}]
    good = write_jsonl(tmp_path / "in.jsonl", rows)
    run = settings([good], tiny, tmp_path / "out", max_length=64)
    rl.train(run, rl.Rollout([tiny_pm], max_tokens=8))
    out = tmp_path / "out"

    metrics = read_jsonl(out / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 7))
    assert {"loss", "reward", "reward_std", "kl", "length", "tokens", "seconds"} <= set(metrics[0])
    assert metrics[0]["kl"] == pytest.approx(0, abs=1e-6)  # still the model that it started from
    assert metrics[-1]["kl"] > 1e-4
    assert all(1 <= line["length"] <= 8 for line in metrics)

    samples = read_jsonl(out / "samples.jsonl")
    assert [entry["step"] for entry in samples] == [1] * 8 + [5] * 8 + [6] * 8
    judge = Renderer(models.load_tokenizer(Path(tiny_pm)))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_pm).eval()
    for entry in samples[:8]:
        ids = judge.judgement(prompts.judged(entry["prompt"], entry["response"], "chat")).ids
        with torch.no_grad():
            assert entry["reward"] == pytest.approx(model(input_ids=torch.tensor([ids])).logits[0, 0].item(), abs=1e-4)
    assert metrics[0]["reward"] == pytest.approx(sum(entry["reward"] for entry in samples[:8]) / 8, abs=1e-4)
    assert samples[0]["id"] == samples[3]["id"] != samples[4]["id"]

    assert [entry["record"]["id"] for entry in read_jsonl(out / "rejected.jsonl")] == ["long"]
    assert set((out / "trained-ids.txt").read_text().split()) == {f"q{i}" for i in range(5)}
    manifest = json.loads((out / "manifest.json").read_text())
    assert [(entry["name"], entry["weight"]) for entry in manifest["pm"]] == [(tiny_pm, 1.0)]
    before, after = AutoModelForCausalLM.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(out)
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert models.load_tokenizer(out).chat_template


def test_prompts_are_those_of_cai_sample(tiny: str) -> None:
    renderer = Renderer(models.load_tokenizer(Path(tiny)))
    record = asked(1)[0]
    example = data.rl_prompt(renderer, "chat", record, 100)
    assert example["ids"] == renderer.render(prompts.answer(record, "chat"))[0]
    stop = renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert example["ids"].count(stop) == 1  # the template's; the one in the text is text


def test_moves_towards_the_reward(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", asked(4))
    run = settings([good], tiny, tmp_path / "out", steps=40, batch_size=4, lr=1e-2, format="hh")
    rl.train(run, rl.Rollout([tiny_pm], kl=0.0, max_tokens=6))
    rewards = [line["reward"] for line in read_jsonl(tmp_path / "out" / "metrics.jsonl")]
    assert sum(rewards[-8:]) / 8 > sum(rewards[:8]) / 8 + 0.1


def test_the_kl_term_holds_the_policy_to_its_start(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", asked(4))
    far = {}
    for kl in (0.001, 10.0):
        out = tmp_path / str(kl)
        rl.train(settings([good], tiny, out, steps=12), rl.Rollout([tiny_pm], kl=kl, max_tokens=6))
        far[kl] = sum(line["kl"] for line in read_jsonl(out / "metrics.jsonl")[-4:]) / 4
    assert far[10.0] < far[0.001] / 2


def interrupt_at(metrics: Path, lines: int) -> None:
    """Send this process SIGINT, as ctrl-C would, once so many steps are done."""

    def wait() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.005)

    threading.Thread(target=wait, daemon=True).start()


def test_a_stopped_run_draws_what_it_would_have_drawn(
    tiny: str, tiny_pm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", asked(7))
    options = {"steps": 16, "save_every": 50, "grad_accum": 2}
    rollout = rl.Rollout([tiny_pm], max_tokens=8)
    rl.train(settings([good], tiny, tmp_path / "whole", **options), rollout)
    interrupt_at(tmp_path / "out.partial" / "metrics.jsonl", 4)
    with pytest.raises(KeyboardInterrupt):
        rl.train(settings([good], tiny, tmp_path / "out", **options), rollout)
    assert "the same command goes on from there" in capsys.readouterr().err
    rl.train(settings([good], tiny, tmp_path / "out", **options), rollout)
    whole, stopped = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "out"))
    for key in ("step", "loss", "reward", "kl", "tokens"):
        assert [line[key] for line in stopped] == [line[key] for line in whole], key
    assert (tmp_path / "whole" / "samples.jsonl").read_bytes() == (tmp_path / "out" / "samples.jsonl").read_bytes()


def test_epochs_are_passes_over_the_prompts(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", asked(4))
    rl.train(settings([good], tiny, tmp_path / "out", steps=None, epochs=2.0), rl.Rollout([tiny_pm], max_tokens=2))
    assert len(read_jsonl(tmp_path / "out" / "metrics.jsonl")) == 4  # two prompts a step


def test_bad_input_is_named(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", asked(2))
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"response": "x"}])
    for files, model, pm, more, message in [
        ([good], tiny, tiny, {}, "not a preference model"),
        ([good], tiny_pm, tiny_pm, {}, "not a language model"),
        ([bad], tiny, tiny_pm, {}, "bad.jsonl:1: no 'prompt' field"),
        ([good], tiny, tiny_pm, {"max_length": 8}, "leaves no room for a prompt"),
        ([good], tiny, tiny_pm, {"output": tiny_pm}, "is a model that this run starts from"),
    ]:
        run = settings(files, model, more.pop("output", tmp_path / "out"), **more)
        with pytest.raises(InputError) as caught:
            rl.train(run, rl.Rollout([pm], max_tokens=8))
        assert message in str(caught.value)
