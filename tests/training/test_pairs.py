"""A pair in one row: the same losses and gradients as in two rows, and only for models that compute it so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_cli.engines import joined
from cai_cli.engines.joined import can_join
from cai_cli.training import pairs
from tests.rows import preference, read_jsonl, write_jsonl
from tests.trainers import settings, train

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GEMMA = {**SMALL, "head_dim": 8, "num_key_value_heads": 2, "max_position_embeddings": 512}
EXAMPLE = {"chosen_ids": [5, 6, 7, 8, 9, 10, 11, 12], "rejected_ids": [5, 6, 7, 20, 21, 22], "p_chosen": 1.0, "weight": 1.0}
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("llama", {**SMALL, "num_key_value_heads": 2}, True),
    "qwen3": ("qwen3", GEMMA, True),
    "plain attention": ("llama", {**SMALL, "attn_implementation": "eager"}, True),
    "learned positions": ("gpt2", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}, True),
    "window": ("gemma2", {**GEMMA, "sliding_window": 64, "attn_implementation": "eager"}, True),
    "window shorter than a row": ("gemma2", {**GEMMA, "sliding_window": 8, "attn_implementation": "eager"}, False),
    "relative positions": (
        "bloom",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4, "attn_implementation": "eager"},
        False,
    ),
    "recurrent": ("mamba", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, False),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_tried_out_whether_a_model_computes_the_same_in_one_row(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, given, joins = MODELS[name]
    attention = given.get("attn_implementation", "sdpa")
    config = AutoConfig.for_model(kind, **{key: value for key, value in given.items() if key != "attn_implementation"})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, **({} if kind == "mamba" else {"attn_implementation": attention}))
    with torch.no_grad():
        for weight in model.parameters():  # at the usual start, 0.02, attention hardly changes anything
            weight.mul_(4)
    assert can_join(model, pairs.divided(EXAMPLE), longest=32) is joins


def test_an_encoder_reads_both_directions_and_takes_two_rows() -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **SMALL))
    assert not can_join(model, pairs.divided(EXAMPLE), 32)


def test_a_row_in_which_one_answer_sees_the_other_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL, initializer_range=0.1))
    assert can_join(model, pairs.divided(EXAMPLE), 32)
    monkeypatch.setattr(
        joined, "visible", lambda segments, *_: torch.ones(1, 1, *2 * segments.shape[1:], dtype=torch.bool).tril()
    )
    assert not can_join(model, pairs.divided(EXAMPLE), 32)


def test_plain_attention_in_bfloat16_takes_one_row(tiny: str, tmp_path: Path) -> None:
    """The default on a CPU with short examples: the base of an adapter is bfloat16, and the mask has that type."""
    source = write_jsonl(tmp_path / "in.jsonl", [preference(i, 0.8) for i in range(6)])
    found = []
    for step, lora in (("train-pm", True), ("train-dpo", True), ("train-dpo", False)):
        run = settings(step, [source], tiny, tmp_path / f"{step}-{lora}", dtype="bfloat16", lora=lora)
        trainer = train(run)
        assert trainer.model.config._attn_implementation == "eager"
        found.append(trainer.data_collator.joined)
        assert all(line["loss"] < 1 for line in read_jsonl(tmp_path / f"{step}-{lora}" / "metrics.jsonl"))
    assert found == [True] * 3


@pytest.mark.parametrize(
    "more", [{}, {"lora": True, "lora_rank": 4}, {"gradient_checkpointing": "on"}], ids=["", "lora", "check"]
)
@pytest.mark.parametrize("step", ["train-pm", "train-dpo"])
def test_one_row_trains_as_two(
    step: str, more: dict[str, Any], tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of several lengths, an answer that begins like the other, soft labels and weights."""
    rows = [
        {**preference(i, [1.0, 0.3, 0.5][i % 3], chosen=f"No{', not' * (i % 4)}.", rejected="No way"), "weight": 1 + i % 2}
        for i in range(12)
    ]
    source = write_jsonl(tmp_path / "in.jsonl", [{**row, "prompt": f"Why{' so' * (n % 5)}?"} for n, row in enumerate(rows)])
    joins, seen = pairs.can_join, list[bool]()

    def noted(*given: Any) -> bool:
        seen.append(joins(*given))
        return seen[-1]

    monkeypatch.setattr(pairs, "can_join", noted)
    train(settings(step, [source], tiny, tmp_path / "one", eval_fraction=0.2, **more))
    monkeypatch.setattr(pairs, "can_join", lambda *_: False)
    train(settings(step, [source], tiny, tmp_path / "two", eval_fraction=0.2, **more))
    assert seen == [True]
    found = [read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for one, two in zip(*found, strict=True):
        for key in one.keys() - {"seconds"}:
            assert one[key] == pytest.approx(two[key], abs=1e-5, rel=1e-5), key


@given(st.lists(st.tuples(*[st.lists(st.integers(1, 9), min_size=1, max_size=6)] * 3), min_size=1, max_size=4), st.booleans())
def test_each_token_sees_what_it_would_see_in_a_row_of_its_own(rows: list[tuple[list[int], ...]], separate: bool) -> None:
    """By the tokens and places that it sees, for a prompt of its own (DPO) and for one within both conversations (PM)."""
    import torch

    def example(prompt: list[int], chosen: list[int], rejected: list[int]) -> dict[str, Any]:
        both = {"chosen_ids": chosen, "rejected_ids": rejected} if separate else {
            "chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}  # fmt: skip
        return {**both, **({"prompt_ids": prompt} if separate else {}), "p_chosen": 1.0, "weight": 1.0}

    batch = pairs.rows([example(*row) for row in rows], pad=0)
    n = batch["segments"].shape[1]
    own = batch["segments"][:, :, None] == batch["segments"][:, None, :]
    seen = (own | (batch["segments"][:, None, :] == 0)) & torch.ones(n, n, dtype=torch.bool).tril()
    for i, (prompt, *answers) in enumerate(rows):
        for side, answer in enumerate(answers):
            whole, last = prompt + answer, int(batch["ends"][i, side])
            places = seen[i, last].nonzero()[:, 0]
            assert batch["input_ids"][i, places].tolist() == whole
            assert batch["position_ids"][i, places].tolist() == list(range(len(whole)))
        assert int(batch["attention_mask"][i].sum()) == sum(len(prompt + answer) for answer in answers)
        if separate:
            shown = batch["completion_mask"][i]
            assert batch["input_ids"][i, shown].tolist() == [token for answer in answers for token in answer]
