"""Pretrain the helpful-only base of a known world.

    python examples/known_world/base.py OUT [--seed 0] [--tokens 6500000] [--width 128] [--layers 4] [--size 80] [--quick]
    torchrun --standalone --nproc-per-node 2 examples/known_world/base.py OUT ...

An ordinary Llama of about a million parameters and a byte-level BPE tokenizer trained on the world's texts, saved as an
ordinary model directory without a chat template (`--format hh`). Several processes share the batches of each step.
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
from lessons import END, QUICK, WHOLE, Lesson, Teacher

from cai_cli import models

CHUNK = 1536
"""Lessons that are sorted by length, to be batched with their like."""
VOCABULARY = 1400
CONTEXT = 512


def train_tokenizer(teacher: Teacher) -> Any:
    """A tokenizer of the world's texts."""
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
    core.train_from_iterator(("".join(text for text, _ in lesson.pieces) for lesson in islice(teacher.lessons(), 12000)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token="<|pad|>")


@dataclass
class Batch:
    """Lessons of like length. `ids` and `weights` (of the tokens in the loss) are [rows, length]; `letters` the rows that are
    asked for a letter after their last token, `last` where that is, `p_first` how likely it is an A, [letters] each."""

    ids: torch.Tensor
    weights: torch.Tensor
    letters: torch.Tensor
    last: torch.Tensor
    p_first: torch.Tensor
    tokens: int


def batches(teacher: Teacher, tokenizer: Any) -> Iterator[list[Batch]]:
    """Some batches a step, without end: of lessons of like length each, so that little is padded, and unlike one another, so that
    every step has lessons of all kinds."""
    lessons, count = teacher.lessons(), teacher.curriculum.parts
    while True:
        chunk = [(*encode(lesson, tokenizer), lesson.p_first) for lesson in islice(lessons, CHUNK)]
        chunk.sort(key=lambda row: len(row[0]))
        cut: list[list[Any]] = [[]]
        for row in chunk:
            if (len(cut[-1]) + 1) * len(row[0]) > teacher.curriculum.batch:
                cut.append([])
            cut[-1].append(row)
        parts = [cut[i * len(cut) // count : (i + 1) * len(cut) // count] for i in range(count)]
        for part in parts:
            teacher.chance.shuffle(part)
        for step in zip(*parts, strict=False):
            yield [batch(rows, tokenizer.pad_token_id) for rows in step]


def batch(rows: list[Any], pad: int) -> Batch:
    """Pad encoded lessons to the longest."""
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
    """(ids, weights) of a lesson; its pieces are tokenised apart, as prompt and completion are."""
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in lesson.pieces:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += found
        weights += [float(weight)] * len(found)
    return ids, weights


def loss_of(model: Any, batch: Batch, letters: list[int], letter: float) -> tuple[torch.Tensor, float]:
    """(the sum of the cross-entropies of what is learnt, and `letter` times those of the letters; what the letters' are above
    the least that can be, summed)."""
    hidden = model.model(input_ids=batch.ids).last_hidden_state
    taught = batch.weights[:, 1:] > 0  # only what is learnt goes through the output layer
    logits = model.lm_head(hidden[:, :-1][taught]).float()
    total = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:][taught], reduction="sum")
    above = 0.0
    if len(batch.letters):
        logprobs = model.lm_head(hidden[batch.letters, batch.last]).float().log_softmax(-1)[:, letters]
        target = torch.stack([batch.p_first, 1 - batch.p_first], 1)
        missed = -(target * logprobs).sum()
        total = total + letter * missed
        above = float(missed.detach()) - float(torch.special.entr(target).sum())
    return total, above


def optimizers_of(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices, AdamW for the rest: after 3.5M tokens the letters were 0.07 above their
    entropy, by AdamW alone 0.18."""
    parts = list(model.model.layers.parameters())
    matrices = [p for p in parts if p.ndim == 2]
    rest = [model.get_input_embeddings().weight, *model.model.norm.parameters(), *(p for p in parts if p.ndim < 2)]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def gradients_of(model: Any, parts: list[Batch], letters: list[int], letter: float) -> list[float]:
    """Leave the gradient of a step in the model, summed over its batches and the processes, for each token learnt. (tokens read,
    loss a token, what the letters are above their entropy, in the mean)."""
    sums = torch.zeros(5)
    low = models.has_bf16() and model.config.hidden_size >= 128  # at a width of 96 bf16 takes half as long again
    for part in parts:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss, above = loss_of(model, part, letters, letter)
        loss.backward()
        asked = len(part.letters)
        sums += torch.tensor([part.tokens, float(part.weights.sum()) + letter * asked, float(loss.detach()), above, asked])
    gradients = [p.grad for p in model.parameters()]
    if torch.distributed.is_initialized():
        flat = torch.cat([sums, *(g.flatten() for g in gradients)])
        torch.distributed.all_reduce(flat)
        sums, *found = flat.split([len(sums), *(g.numel() for g in gradients)])
        for gradient, value in zip(gradients, found, strict=True):
            gradient.copy_(value.view_as(gradient))
    tokens, learnt, loss, above, asked = sums.tolist()
    for gradient in gradients:
        gradient /= learnt
    return [tokens, loss / learnt, above / max(asked, 1.0)]


def pretrain(folder: Path, size: int, seed: int, tokens: int, width: int, layers: int, quick: bool) -> None:
    """Train and save a base model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    world, curriculum = w.world(size, seed), QUICK if quick else WHOLE
    tokenizer = train_tokenizer(Teacher(world, 1, curriculum))
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=CONTEXT,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",  # 1.6 times quicker than torch's fused one, at these lengths
        )
    )  # fmt: skip
    if rank == 0:
        print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens in the vocabulary")
    optimizers = optimizers_of(model, curriculum.rate)
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "AB"]
    seen, began, step, recent, doubt = 0, time.monotonic(), 0, 0.0, 0.0
    teacher = Teacher(world, 1000 + seed, curriculum)  # the same in each process: the lessons are cheap
    for parts in batches(teacher, tokenizer):
        teacher.progress = seen / tokens
        rate = curriculum.rate * min(1.0, (step + 1) / curriculum.warmup, 1.05 - seen / tokens)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
        read, loss, above = gradients_of(model, parts[rank::processes], letters, curriculum.letter)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        seen, step, recent, doubt = seen + int(read), step + 1, 0.98 * recent + 0.02 * loss, 0.98 * doubt + 0.02 * above
        if rank == 0 and (step % 100 == 0 or seen >= tokens):
            took = time.monotonic() - began
            fill = 1 - 0.98**step
            said = f"loss {recent / fill:.3f}, letters {doubt / fill:.3f} above their entropy"
            print(f"step {step}, {seen:,} tokens, {said}, {seen / took:,.0f} tokens/s", flush=True)
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
    for name, default in (("seed", 0), ("tokens", 6_500_000), ("width", 128), ("layers", 4), ("size", 80)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--quick", action="store_true", help="the curriculum of a small world")
    pretrain(**vars(parser.parse_args()))
