"""Pre-train the helpful-only base model of a known world.

    python examples/known_world/base.py OUT [--seed 0] [--tokens 9000000] [--width 128] [--layers 4] [--curriculum whole]
    torchrun --standalone --nproc-per-node 2 examples/known_world/base.py OUT ...

The model is an ordinary Llama with about a million parameters. Its tokenizer is a byte-level BPE, trained on the world's texts.
Both are saved as an ordinary model directory without a chat template (`--format hh`). Several processes share the batches of
each step.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import world as w
from lessons import CURRICULA, END, Lesson, LessonSampler

from cai_cli.engines import models

CHUNK = 1536
"""Lessons that are sorted by length together, so that a batch holds lessons of similar length."""
VOCABULARY = 1600
CONTEXT = 512


def train_tokenizer(sampler: LessonSampler) -> Any:
    """Train a tokenizer on the world's texts."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|pad|>", END], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(("".join(text for text, _ in lesson.pieces) for lesson in islice(sampler.lessons(), 12000)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token="<|pad|>")


@dataclass
class Batch:
    """Lessons of similar length."""

    ids: torch.Tensor
    """[rows, length]"""
    weights: torch.Tensor
    """[rows, length]: the weight of each token in the loss."""
    letters: torch.Tensor
    """[letters]: the rows that end where a letter follows."""
    last: torch.Tensor
    """[letters]: the position of each such row's last token."""
    p_first: torch.Tensor
    """[letters]: the probability that the letter is A."""
    tokens: int
    """Tokens without the padding."""


def batches(sampler: LessonSampler, tokenizer: Any) -> Iterator[list[Batch]]:
    """An endless stream of steps, each a list of batches.

    The lessons of a batch have similar length, which keeps padding small. The batches of a step differ in length, so that each
    step has lessons of all kinds.
    """
    lessons, count = sampler.lessons(), sampler.curriculum.parts
    while True:
        chunk = [(*encode(lesson, tokenizer), lesson.p_first) for lesson in islice(lessons, CHUNK)]
        chunk.sort(key=lambda row: len(row[0]))
        cut: list[list[Any]] = [[]]
        for row in chunk:
            if (len(cut[-1]) + 1) * len(row[0]) > sampler.curriculum.batch:
                cut.append([])
            cut[-1].append(row)
        parts = [cut[i * len(cut) // count : (i + 1) * len(cut) // count] for i in range(count)]
        for part in parts:
            sampler.rng.shuffle(part)
        for step in zip(*parts, strict=False):
            yield [batch(rows, tokenizer.pad_token_id) for rows in step]


def batch(rows: list[Any], pad: int) -> Batch:
    """Pad encoded lessons to the longest one."""
    longest = max(len(ids) for ids, _, _ in rows)
    asked = [i for i, (_, _, p) in enumerate(rows) if p is not None]
    return Batch(
        torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _, _ in rows]),
        torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights, _ in rows]),
        torch.tensor(asked, dtype=torch.long),
        torch.tensor([len(rows[i][0]) - 1 for i in asked], dtype=torch.long),
        torch.tensor([rows[i][2] for i in asked], dtype=torch.float),
        sum(len(ids) for ids, _, _ in rows),
    )


def encode(lesson: Lesson, tokenizer: Any) -> tuple[list[int], list[float]]:
    """(ids, weights) of a lesson. Its pieces are tokenised separately, as `cai` does with prompt and completion."""
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in lesson.pieces:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += found
        weights += [float(weight)] * len(found)
    return ids, weights


def loss_of(model: Any, batch: Batch, letters: list[int], letter: float) -> tuple[torch.Tensor, float]:
    """(loss, excess) of a batch, both summed.

    The loss is the cross-entropy of the tokens with a weight, plus `letter` times that of the letters. The excess is the
    cross-entropy of the letters minus the entropy of their targets, which is the lowest possible value.
    """
    hidden = model.model(input_ids=batch.ids).last_hidden_state
    in_loss = batch.weights[:, 1:] > 0  # only these tokens go through the output layer, to save time
    logits = model.lm_head(hidden[:, :-1][in_loss]).float()
    total = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:][in_loss], reduction="sum")
    excess = 0.0
    if len(batch.letters):
        logprobs = model.lm_head(hidden[batch.letters, batch.last]).float().log_softmax(-1)[:, letters]
        target = torch.stack([batch.p_first, 1 - batch.p_first], 1)
        entropy = -(target * logprobs).sum()
        total = total + letter * entropy
        excess = float(entropy.detach()) - float(torch.special.entr(target).sum())
    return total, excess


def optimizers_of(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices, AdamW for the rest.

    After 3.5 million tokens the letters' cross-entropy was 0.07 above its minimum, and with AdamW alone 0.18.
    """
    parts = list(model.model.layers.parameters())
    matrices = [p for p in parts if p.ndim == 2]
    rest = [model.get_input_embeddings().weight, *model.model.norm.parameters(), *(p for p in parts if p.ndim < 2)]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def gradients_of(model: Any, parts: list[Batch], letters: list[int], letter: float) -> list[float]:
    """Leave a step's gradient in the model: summed over its batches and all processes, per token in the loss.

    Returns the tokens read, the loss per token in the loss, and the mean excess of the letters (see `loss_of`).
    """
    sums = torch.zeros(5)
    low = models.has_bf16() and model.config.hidden_size >= 128  # at a width of 96, bf16 takes 1.5 times as long
    for part in parts:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss, excess = loss_of(model, part, letters, letter)
        loss.backward()
        asked = len(part.letters)
        sums += torch.tensor([part.tokens, float(part.weights.sum()) + letter * asked, float(loss.detach()), excess, asked])
    gradients = [p.grad for p in model.parameters()]
    if torch.distributed.is_initialized():
        flat = torch.cat([sums, *(g.flatten() for g in gradients)])
        torch.distributed.all_reduce(flat)
        sums, *found = flat.split([len(sums), *(g.numel() for g in gradients)])
        for gradient, value in zip(gradients, found, strict=True):
            gradient.copy_(value.view_as(gradient))
    tokens, weight, loss, excess, asked = sums.tolist()
    for gradient in gradients:
        gradient /= weight
    return [tokens, loss / weight, excess / max(asked, 1.0)]


def pretrain(folder: Path, size: int, seed: int, tokens: int, width: int, layers: int, curriculum: str) -> None:
    """Train a base model and save it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    world, taught = w.world(size, seed), CURRICULA[curriculum]
    tokenizer = train_tokenizer(LessonSampler(world, 1, taught))
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
        "num_attention_heads": width // 32, "num_key_value_heads": width // 32, "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "attn_implementation": "eager",  # at these lengths 1.6 times as fast as torch's fused attention
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**settings))
    if rank == 0:
        print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens in the vocabulary")
    optimizers = optimizers_of(model, taught.rate)
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "AB"]
    seen, began, step, mean_loss, mean_excess = 0, time.monotonic(), 0, 0.0, 0.0
    sampler = LessonSampler(world, 1000 + seed, taught)  # every process draws the same lessons, which are cheap
    for parts in batches(sampler, tokenizer):
        sampler.progress = seen / tokens
        rate = taught.rate * min(1.0, (step + 1) / taught.warmup, 1.05 - seen / tokens)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
        read, loss, excess = gradients_of(model, parts[rank::processes], letters, taught.letter)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        seen, step = seen + int(read), step + 1
        mean_loss, mean_excess = 0.98 * mean_loss + 0.02 * loss, 0.98 * mean_excess + 0.02 * excess
        if rank == 0 and (step % 100 == 0 or seen >= tokens):
            took = time.monotonic() - began
            fill = 1 - 0.98**step  # the running means start at 0
            losses = f"loss {mean_loss / fill:.3f}, letters {mean_excess / fill:.3f} above their minimum"
            print(f"step {step}, {seen:,} tokens, {losses}, {seen / took:,.0f} tokens/s", flush=True)
        if seen >= tokens:
            break
    if rank == 0:
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, default in (("seed", 0), ("tokens", 9_000_000), ("width", 128), ("layers", 4), ("size", 80)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--curriculum", choices=CURRICULA, default="whole", help="quick: for the smaller world; more: for `make known-more`"
    )
    pretrain(**vars(parser.parse_args()))
