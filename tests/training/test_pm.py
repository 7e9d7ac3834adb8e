"""The preference model: soft labels, TRL's own loss for hard labels, and scores that padding does not change."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from cai_cli.data.jsonl import Record
from cai_cli.engines import models
from cai_cli.engines.scorer import PreferenceModel
from cai_cli.errors import InputError
from cai_cli.method import prompts
from cai_cli.method.tokens import Renderer
from cai_cli.training import pm
from tests import tiny as make
from tests.rows import preference, read_jsonl, write_jsonl
from tests.trainers import settings

pytestmark = pytest.mark.usefixtures("one_thread")


def predictions(folder: Path, rows: list[Record]) -> list[float]:
    """The probability that the trained model gives each row's chosen answer, read as `cai score` reads it."""
    renderer, scorer = Renderer(models.load_tokenizer(folder)), PreferenceModel(folder, "float32")
    sides = [
        [renderer.score_request(prompts.pm_input_side(row, side, "chat")).ids for side in ("chosen", "rejected")] for row in rows
    ]
    scores = [scorer.score_ids(both) for both in sides]
    return [1 / (1 + math.exp(rejected - chosen)) for chosen, rejected in scores]


def test_hard_labels_are_trls_own_loss(tiny: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rows = [preference(i, None, chosen=f"It is {'very ' * (i % 5)}good.") for i in range(16)]
    pm.train(settings("train-pm", [write_jsonl(tmp_path / "in.jsonl", rows)], tiny, tmp_path / "out", steps=8, batch_size=16))
    ours = read_jsonl(tmp_path / "out" / "metrics.jsonl")

    config = RewardConfig(
        output_dir=str(tmp_path / "trl"), max_steps=8, learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=0,
        per_device_train_batch_size=16, seed=0, use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    columns = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    trainer = RewardTrainer(model=tiny, args=config, train_dataset=Dataset.from_list(columns))
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [line["loss"] for line in ours] == pytest.approx([entry["loss"] for entry in theirs], abs=1e-7)
    assert [line["grad_norm"] for line in ours] == pytest.approx([entry["grad_norm"] for entry in theirs], abs=1e-6)


def test_a_pair_at_seven_tenths_is_scored_as_seven_tenths(tiny: str, tmp_path: Path) -> None:
    rows = [preference(1, 0.7)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    pm.train(settings("train-pm", [source], tiny, tmp_path / "out", steps=80, lr=3e-3, batch_size=1))
    assert predictions(tmp_path / "out", rows) == [pytest.approx(0.7, abs=0.02)]
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert read_jsonl(tmp_path / "out" / "metrics.jsonl")[-1]["loss"] == pytest.approx(entropy, abs=0.002)


def test_even_labels_are_not_thresholded(tiny: str, tmp_path: Path) -> None:
    rows = [
        preference(1, 0.5, "The sun is in the sky.", "The weather is grey today."),
        preference(2, 1.0, "Paris is in France.", "I can't say."),
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    pm.train(settings("train-pm", [source], tiny, tmp_path / "out", steps=120, lr=3e-3, batch_size=2))
    even, sure = predictions(tmp_path / "out", rows)
    assert even == pytest.approx(0.5, abs=0.05)
    assert sure > 0.9


@pytest.fixture(scope="session")
def padded_by_its_end(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that pads with its end-of-turn token and has an unknown token to spare, as SmolLM2 does."""
    from transformers import AutoConfig, AutoTokenizer

    folder = make.tiny_model(tmp_path_factory.mktemp("models") / "smol-like")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.unk_token, tokenizer.pad_token = "<|pad|>", "<|im_end|>"
    tokenizer.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    config.pad_token_id = tokenizer.pad_token_id
    config.save_pretrained(folder)
    return folder


def test_padding_does_not_change_scores(padded_by_its_end: str, tmp_path: Path) -> None:
    """Plain transformers, a right-padded batch: each row has the score that it has alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = [preference(i, 0.9, chosen="It is good. " * (1 + i % 3)) for i in range(8)]
    pm.train(settings("train-pm", [write_jsonl(tmp_path / "in.jsonl", rows)], padded_by_its_end, tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", padding_side="right")
    assert tokenizer.pad_token == "<|pad|>"
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(config["id2label"]) == 1

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    chats = [row["prompt"] + row[side] for row in rows[:3] for side in ("chosen", "rejected")]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    with torch.no_grad():
        together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0].tolist()
        alone = [model(**tokenizer(text, return_tensors="pt")).logits[0, 0].item() for text in texts]
    renderer = Renderer(models.load_tokenizer(tmp_path / "out"))
    ids = [
        renderer.score_request(prompts.pm_input_side(row, side, "chat")).ids
        for row in rows[:3]
        for side in ("chosen", "rejected")
    ]
    assert together == pytest.approx(alone, abs=1e-5)
    assert PreferenceModel(tmp_path / "out", "float32").score_ids(ids) == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 4) for score in alone}) > 3


def test_starts_from_a_preference_model_and_refuses_others(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    good = write_jsonl(tmp_path / "in.jsonl", [preference(i, 0.8) for i in range(4)])
    pm.train(settings("train-pm", [good], tiny_pm, tmp_path / "out", steps=1, lr=1e-6))
    before, after = (AutoModelForSequenceClassification.from_pretrained(folder) for folder in (tiny_pm, tmp_path / "out"))
    assert (before.score.weight - after.score.weight).abs().max() < 1e-4  # the head was kept
    assert set((tmp_path / "out" / "trained-ids.txt").read_text().split()) == {"p0", "p1", "p2", "p3"}

    two = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2)
    two.save_pretrained(tmp_path / "two")
    models.load_tokenizer(Path(tiny)).save_pretrained(tmp_path / "two")
    with pytest.raises(InputError, match="not a preference model"):
        pm.train(settings("train-pm", [good], str(tmp_path / "two"), tmp_path / "out2"))
    for row, message in [
        ({**preference(1, 1.5)}, "'p_chosen' must be a number from 0 to 1"),
        ({"prompt": "Hi", "chosen": "x"}, "no 'rejected' field"),
        ({"id": "a", "prompt": "Hi", "response": "x"}, "no 'chosen' field"),
    ]:
        with pytest.raises(InputError, match=":1: .*" + message):
            pm.train(settings("train-pm", [write_jsonl(tmp_path / "bad.jsonl", [row])], tiny, tmp_path / "out2"))
    bad = write_jsonl(tmp_path / "bad.jsonl", [preference(1, 0.9, chosen="word " * 300)])
    with pytest.raises(InputError, match="every row was skipped"):
        pm.train(settings("train-pm", [bad], tiny, tmp_path / "out2"))


def test_a_preference_counts_by_its_weight(tiny: str, tmp_path: Path) -> None:
    """A row of weight 0 has no effect: the opposite row of weight 1 is trained on as if it were alone."""
    rows = [{**preference(1, 1.0), "weight": 1.0}, {**preference(2, 1.0, "No idea, go away.", "It is good."), "weight": 0}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    pm.train(settings("train-pm", [source], tiny, tmp_path / "out", steps=40, lr=3e-3, batch_size=2))
    assert predictions(tmp_path / "out", rows[:1])[0] > 0.9
    assert read_jsonl(tmp_path / "out" / "metrics.jsonl")[-1]["loss"] < 0.1
    bad = write_jsonl(tmp_path / "bad.jsonl", [{**preference(1, 1.0), "weight": -1}])
    with pytest.raises(InputError, match="'weight' must be a number"):
        pm.train(settings("train-pm", [bad], tiny, tmp_path / "out2"))


def test_a_token_that_ends_texts_is_never_the_padding(tiny: str, tmp_path: Path) -> None:
    from transformers import GenerationConfig

    shutil.copytree(tiny, tmp_path / "model")
    renderer = Renderer(models.load_tokenizer(tmp_path / "model"))
    assert pm.padding(renderer, "chat", tmp_path / "model") == "<|pad|>"
    ends = [renderer.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|pad|>")]
    GenerationConfig(eos_token_id=ends).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="add one to pad with"):
        pm.padding(renderer, "chat", tmp_path / "model")
    assert pm.padding(renderer, "hh", tmp_path / "model") == "<|im_start|>"  # plain transcripts neither hold it nor end with it
