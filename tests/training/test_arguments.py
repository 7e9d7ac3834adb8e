"""The arguments that TRL's trainers are given: warm-up, attention, and those of --trl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trl

from cai_cli.engines import models
from cai_cli.errors import InputError
from cai_cli.training import arguments, examples, sft
from cai_cli.training.examples import PreferenceExample
from cai_cli.training.rl import Rollout
from tests.rows import preferences, read_jsonl, revisions, rl_prompts, write_jsonl
from tests.trainers import settings, train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_of_few_steps_has_no_warmup(tiny: str, tmp_path: Path) -> None:
    sft.train(settings("train-sft", [write_jsonl(tmp_path / "a.jsonl", revisions(8))], tiny, tmp_path / "out", steps=1))
    assert [line["learning_rate"] for line in read_jsonl(tmp_path / "out" / "metrics.jsonl")] == [1e-3]
    few, many = (arguments.warmup_steps(settings("train-sft", [], tiny, tmp_path, steps=n), 0) for n in (20, 100))
    assert (few, many) == (0, 5)


@pytest.mark.skipif(models.device() != "cpu", reason="on a GPU cai leaves the choice of attention to the library")
def test_only_short_examples_use_eager_attention(tiny: str, tmp_path: Path) -> None:
    """Plain attention keeps length x length numbers per head and layer: with long examples they fill the memory."""
    for words, expected in ((1, "eager"), (400, "sdpa")):
        long = [row | {"response": "no " * words, "rounds": []} for row in revisions(4)]
        source = write_jsonl(tmp_path / f"{words}.jsonl", long)
        run = settings("train-sft", [source], tiny, tmp_path / expected, steps=1, dtype="bfloat16", max_length=2000)
        assert sft.train(run).model.config._attn_implementation == expected
    pair: PreferenceExample = {"chosen_ids": [1] * 200, "rejected_ids": [1] * 90, "p_chosen": 1.0, "weight": 1.0}
    assert examples.longest_side(pair) == 200
    assert examples.longest_side({**pair, "prompt_ids": [1] * 70}) == 270


def test_any_argument_of_trl_can_be_set(tiny: str, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", revisions(4)), tmp_path / "out"
    given = ["weight_decay=0.25", "lr_scheduler_type=linear", 'model_init_kwargs={"attn_implementation": "sdpa"}']
    run = settings("train-sft", [source], tiny, out, steps=1, trl=given)
    trainer = sft.train(run)
    assert (trainer.args.weight_decay, trainer.args.lr_scheduler_type) == (0.25, "linear")
    assert trainer.model.config._attn_implementation == "sdpa"
    fingerprint = json.loads((out / "manifest.json").read_text())["fingerprint"]
    assert fingerprint["trl"]["weight_decay"] == 0.25


@pytest.mark.parametrize(
    ("step", "config", "entry", "message"),
    [
        ("train-sft", "SFTConfig", "weight_deccay=1", "SFTConfig has no such argument; did you mean weight_decay?"),
        ("train-sft", "SFTConfig", "weight_decay=high", "'weight_decay' must be a number, found str"),
        ("train-sft", "SFTConfig", "weight_decay", "write KEY=VALUE"),
        ("train-sft", "SFTConfig", "learning_rate=1", "cai sets it itself; use --lr"),
        ("train-pm", "RewardConfig", "center_rewards_coefficient=0.1", "use p_chosen and weight in the records"),
        ("train-dpo", "DPOConfig", 'loss_type="ipo"', "use p_chosen and weight in the records"),
        ("rl", "GRPOConfig", "shuffle_dataset=true", "cai depends on its own value of it"),
        ("rl", "GRPOConfig", "hub_token=x", "cai depends on its own value of it"),
    ],
)
def test_an_argument_of_trl_that_cannot_be_set_is_named(step: str, config: str, entry: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        arguments.extra(step, config, [entry])
    assert message in str(caught.value)


@pytest.mark.parametrize("step", ["train-sft", "train-pm", "train-dpo", "rl"])
def test_every_argument_that_a_trainer_sets_is_refused(
    step: str, tiny: str, tiny_pm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except those whose values are only cai's defaults."""
    rows = {"train-sft": revisions(4), "rl": rl_prompts(4)}.get(step, preferences())
    source, given = write_jsonl(tmp_path / "in.jsonl", rows), {}
    config_of = {"train-sft": "SFTConfig", "train-pm": "RewardConfig", "train-dpo": "DPOConfig", "rl": "GRPOConfig"}[step]
    real = getattr(trl, config_of)
    monkeypatch.setattr(trl, config_of, lambda **options: given.update(options) or real(**options))
    rollout = Rollout([tiny_pm], max_tokens=4) if step == "rl" else None
    train(settings(step, [source], tiny, tmp_path / "out", steps=1), rollout)
    monkeypatch.undo()
    free = {"lr_scheduler_type", "warmup_steps", "dataloader_pin_memory", "model_init_kwargs", "disable_dropout"}
    for name in given.keys() - free:
        with pytest.raises(InputError, match="cai"):
            arguments.extra(step, config_of, [f"{name}=1"])
    assert arguments.extra("rl", "GRPOConfig", ["loss_type=dr_grpo"]) == {"loss_type": "dr_grpo"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optim": "adafacto"}, "--optim adafacto: give one of adafactor"),
        ({"optim": "adamw_8bit"}, "--optim adamw_8bit needs bitsandbytes: pip install 'cai-cli[bitsandbytes]'"),
        ({"load_in_4bit": True, "lora": True}, "--load-in-4bit needs bitsandbytes"),
    ],
)
def test_an_optimizer_is_checked_before_anything_is_loaded(
    given: dict[str, object], message: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    source = write_jsonl(tmp_path / "in.jsonl", revisions(4))
    with pytest.raises(InputError) as caught:
        sft.train(settings("train-sft", [source], tiny, tmp_path / "out", **given))
    assert message in str(caught.value)


def test_another_optimizer_trains(tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", revisions(4))
    trainer = sft.train(settings("train-sft", [source], tiny, tmp_path / "out", steps=1, optim="adafactor"))
    assert type(trainer.optimizer.optimizer).__name__ == "Adafactor"


def test_a_tracker_is_checked_before_anything_is_loaded(tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", revisions(4))
    for name, message in (("wandbb", "give one of wandb"), ("swanlab", "it is not installed; pip install swanlab")):
        with pytest.raises(InputError, match=message):
            sft.train(settings("train-sft", [source], tiny, tmp_path / "out", report_to=name))
