"""RL: the reward is the preference model's, the KL holds, and a stopped run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_cli.engines import models
from cai_cli.errors import InputError
from cai_cli.method import prompts
from cai_cli.method.tokens import Renderer
from cai_cli.training import rl
from tests.processes import count_lines
from tests.rows import read_jsonl, rl_prompts, write_jsonl
from tests.trainers import interrupt_at, settings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rewards_are_the_preference_models(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    rows = [*rl_prompts(5), {"id": "long", "prompt": "word " * 200}]
    good = write_jsonl(tmp_path / "in.jsonl", rows)
    run = settings("rl", [good], tiny, tmp_path / "out", max_length=64)
    rl.train(run, rl.Rollout([tiny_pm], max_tokens=8))
    out = tmp_path / "out"

    metrics = read_jsonl(out / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 7))
    assert {"loss", "reward", "reward_std", "kl", "length", "tokens", "seconds"} <= set(metrics[0])
    assert metrics[0]["kl"] == pytest.approx(0, abs=1e-6)  # the weights are still those of the starting model
    assert metrics[-1]["kl"] > 1e-4
    assert all(1 <= line["length"] <= 8 for line in metrics)

    samples = read_jsonl(out / "samples.jsonl")
    assert [entry["step"] for entry in samples] == [1] * 8 + [5] * 8 + [6] * 8
    renderer = Renderer(models.load_tokenizer(Path(tiny_pm)))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_pm).eval()
    for entry in samples[:8]:
        ids = renderer.score_request(prompts.pm_input(entry["prompt"], entry["response"], "chat")).ids
        with torch.no_grad():
            assert entry["reward"] == pytest.approx(model(input_ids=torch.tensor([ids])).logits[0, 0].item(), abs=1e-4)
    assert metrics[0]["reward"] == pytest.approx(sum(entry["reward"] for entry in samples[:8]) / 8, abs=1e-4)
    assert samples[0]["source_id"] == samples[3]["source_id"] != samples[4]["source_id"]
    assert len({entry["id"] for entry in samples}) == len(samples)

    assert [entry["record"]["id"] for entry in read_jsonl(out / "skipped.jsonl")] == ["long"]
    assert set((out / "trained-ids.txt").read_text().split()) == {f"q{i}" for i in range(5)}
    manifest = json.loads((out / "manifest.json").read_text())
    assert [(entry["name"], entry["weight"]) for entry in manifest["pm"]] == [(tiny_pm, 1.0)]
    before, after = AutoModelForCausalLM.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(out)
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert models.load_tokenizer(out).chat_template


def test_training_raises_the_reward(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", rl_prompts(4))
    run = settings("rl", [good], tiny, tmp_path / "out", steps=40, batch_size=4, lr=1e-2, format="hh")
    rl.train(run, rl.Rollout([tiny_pm], kl_coef=0.0, max_tokens=6))
    rewards = [line["reward"] for line in read_jsonl(tmp_path / "out" / "metrics.jsonl")]
    assert sum(rewards[-8:]) / 8 > sum(rewards[:8]) / 8 + 0.1


def test_the_kl_term_holds_the_policy_to_its_start(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", rl_prompts(4))
    far = {}
    for kl in (0.001, 10.0):
        out = tmp_path / str(kl)
        rl.train(settings("rl", [good], tiny, out, steps=12), rl.Rollout([tiny_pm], kl_coef=kl, max_tokens=6))
        far[kl] = sum(line["kl"] for line in read_jsonl(out / "metrics.jsonl")[-4:]) / 4
    assert far[10.0] < far[0.001] / 2


def test_the_kl_grows_with_the_distance_from_the_starting_model(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", rl_prompts(4))
    rl.train(settings("rl", [good], tiny, tmp_path / "out", steps=8), rl.Rollout([tiny_pm], kl_coef=0.001, max_tokens=6))
    first, *_, last = [line["kl"] for line in read_jsonl(tmp_path / "out" / "metrics.jsonl")]
    assert abs(first) < 1e-6 < 1e-4 < last


def test_a_resumed_run_draws_what_it_would_have_drawn(
    tiny: str, tiny_pm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", rl_prompts(7))
    rollout = rl.Rollout([tiny_pm], max_tokens=8)

    def run(output: str) -> None:
        options = {"steps": 16, "save_every": 50, "grad_accum": 2, "quiet": False}
        rl.train(settings("rl", [good], tiny, tmp_path / output, **options), rollout)

    run("whole")
    interrupt_at(tmp_path / "out.partial" / "metrics.jsonl", 4)
    with pytest.raises(KeyboardInterrupt):
        run("out")
    assert "the same command continues from there" in capsys.readouterr().err
    done = count_lines(tmp_path / "out.partial" / "metrics.jsonl")
    assert 4 <= done < 16
    run("out")
    assert f"continuing after step {done}\n" in capsys.readouterr().err
    whole, resumed = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "out"))
    for key in ("step", "loss", "reward", "kl", "tokens"):
        assert [line[key] for line in resumed] == [line[key] for line in whole], key
    assert (tmp_path / "whole" / "samples.jsonl").read_bytes() == (tmp_path / "out" / "samples.jsonl").read_bytes()


def test_epochs_are_passes_over_the_prompts(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", rl_prompts(4))
    rl.train(settings("rl", [good], tiny, tmp_path / "out", steps=None, epochs=2.0), rl.Rollout([tiny_pm], max_tokens=2))
    assert len(read_jsonl(tmp_path / "out" / "metrics.jsonl")) == 4  # two prompts per step


def test_bad_input_is_named(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", rl_prompts(2))
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"response": "x"}])
    cases: list[tuple[list[str], str, str, dict[str, Any], str]] = [
        ([good], tiny, tiny, {}, "not a preference model"),
        ([good], tiny_pm, tiny_pm, {}, "not a language model"),
        ([bad], tiny, tiny_pm, {}, "bad.jsonl:1: no 'prompt' field"),
        ([good], tiny, tiny_pm, {"max_length": 8}, "leaves no room for a prompt"),
        ([good], tiny, tiny_pm, {"output": tiny_pm}, "is a model that this run starts from"),
    ]
    for files, model, pm, more, message in cases:
        run = settings("rl", files, model, more.pop("output", tmp_path / "out"), **more)
        with pytest.raises(InputError) as caught:
            rl.train(run, rl.Rollout([pm], max_tokens=8))
        assert message in str(caught.value)


def test_rl_starts_from_an_rl_model_with_a_new_preference_model(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    """The second preference model has other tokens than the policy."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    source = write_jsonl(tmp_path / "in.jsonl", rl_prompts(3))
    rl.train(settings("rl", [source], tiny, tmp_path / "first", steps=2), rl.Rollout([tiny_pm], max_tokens=8))
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["What", " is", "plus"])  # other ids for the same text
    tokenizer.save_pretrained(tmp_path / "pm")
    config = LlamaConfig.from_pretrained(tiny_pm, vocab_size=len(tokenizer), num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "pm")
    run = settings("rl", [source], str(tmp_path / "first"), tmp_path / "second", steps=2)
    rl.train(run, rl.Rollout([str(tmp_path / "pm")], max_tokens=8, samples_every=1))
    assert len(read_jsonl(tmp_path / "second" / "metrics.jsonl")) == 2
    with pytest.raises(InputError, match="the weight a number"):
        rl.train(run, rl.Rollout([f"{tiny_pm}=heavy"]))


def test_vllm_generates_only_on_a_gpu_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own GPU and packages do not matter."""
    for device, installed in (("cpu", True), ("cuda", False)):
        monkeypatch.setattr(models, "device", lambda device=device: device)
        monkeypatch.setattr(rl, "find_spec", lambda _, installed=installed: object() if installed else None)
        assert rl.generator("auto", 1024) == rl.generator("transformers", 1024) == {}
        with pytest.raises(InputError, match="only on a GPU and with vllm installed"):
            rl.generator("vllm", 1024)
    monkeypatch.setattr(rl, "find_spec", lambda _: object())
    assert rl.generator("auto", 1024) == rl.generator("vllm", 1024)
    assert rl.generator("vllm", 1024)["vllm_max_model_length"] == 1024
    assert rl.generator("transformers", 1024) == {}
