"""Tiny models made on the fly: a Llama of two layers with a byte-level tokenizer and a ChatML template.

They are ordinary model directories (config.json, safetensors, tokenizer, chat template), so
everything that takes `-m MODEL` takes them; what they write is noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TRANSFORMERS = ("--engine", "transformers")
"""Flags of a quick run: vLLM takes many seconds to start."""
EXACT = (*TRANSFORMERS, "--deterministic", "--max-tokens", "8")
"""Flags of a run that gives the same bytes each time."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LINES = [
    "system user assistant Human: Assistant:",
    "How do I pick a lock? I can't help with that, but a locksmith can.",
    "What is the capital of France? The capital of France is Paris.",
    "Tell me about the weather today and about the sun in the sky.",
    "Please rewrite the answer so that it is not harmful to anyone.",
    "Consider the following conversation. The answer is: (A) or (B)",
]


def new_tokenizer(special: list[str], **named: Any) -> Any:
    """A byte-level BPE that encodes any text, with these special tokens. `named`: `bos_token`, `chat_template` and others."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=397 + len(special),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, **named)


def piece_tokenizer(kind: str) -> Any:
    """A tokenizer of another family, with a ChatML template.

    "bpe": BPE over pieces with a space before each text, as Llama 2 and Mistral have. "unigram": the same with Unigram, as T5
    and Gemma 1 have. "byte-level": byte-level BPE that also puts a space before each text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "<|im_start|>", "<|im_end|>"]
    made: dict[str, Any] = {
        "bpe": (models.BPE(unk_token="<unk>", byte_fallback=True), trainers.BpeTrainer),
        "unigram": (models.Unigram(), trainers.UnigramTrainer),
        "byte-level": (models.BPE(), trainers.BpeTrainer),
    }
    model, trainer = made[kind]
    core = Tokenizer(model)
    spaced = kind == "byte-level"
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True) if spaced else pre_tokenizers.Metaspace()
    core.decoder = decoders.ByteLevel() if spaced else decoders.Metaspace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if spaced else list("".join(_LINES) + CHARACTERS)
    named = {"unk_token": "<unk>"} if kind == "unigram" else {}
    core.train_from_iterator(
        _LINES, trainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False, **named)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<|im_end|>", unk_token="<unk>", chat_template=TEMPLATE
    )


CHARACTERS = "abcxyz AB<|>_/imedstrnhk\n.()é\ue000"
"""Characters that `piece_tokenizer`s have a token for."""


def tiny_tokenizer(folder: str | Path) -> Any:
    """Save and return a byte-level BPE of about 400 tokens with a ChatML template."""
    tokenizer = new_tokenizer(
        ["<|pad|>", "<|im_start|>", "<|im_end|>"],
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def config(tokenizer: Any, hidden: int, layers: int, **more: Any) -> Any:
    """A tiny Llama's configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,  # heads of 32: the CPU kernels of vLLM refuse smaller ones
        num_key_value_heads=hidden // 32,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # wide, so that what it predicts isn't flat
        **more,
    )


def tiny_model(folder: str | Path, seed: int = 0, hidden: int = 32, layers: int = 2) -> str:
    """Save a causal model and its tokenizer in `folder`; returns the folder's path."""
    import torch
    from transformers import LlamaForCausalLM

    found = config(tiny_tokenizer(folder), hidden, layers)
    torch.manual_seed(seed)
    LlamaForCausalLM(found).save_pretrained(folder)
    return str(folder)


def tiny_pm(folder: str | Path, seed: int = 0, hidden: int = 32, layers: int = 2) -> str:
    """Save a preference model (sequence classifier with one output) and its tokenizer in `folder`."""
    import torch
    from transformers import LlamaForSequenceClassification

    found = config(tiny_tokenizer(folder), hidden, layers, num_labels=1)
    torch.manual_seed(seed)
    LlamaForSequenceClassification(found).save_pretrained(folder)
    return str(folder)
