"""Tiny models with the chat templates of real ones, and a record of every token that the commands give them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import trl

from cai_cli.engines.base import Request
from cai_cli.engines.scorer import PreferenceModel
from cai_cli.engines.transformers import TransformersEngine
from cai_cli.training.run import Run
from tests.tiny import config, new_tokenizer

FOLDER = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training"))
_CONTROL = re.compile(r"<[|\uff5c][^<>\s'\"]{1,40}>|</?[a-z_]{2,20}\|?>|\[/?INST\]|\[gMASK\]|</?s>")
BOS = ("<bos>", "<|begin_of_text|>", "[gMASK]")
"""Tokens that begin a conversation: the tokenizer's own, and those that a template spells."""


def template_tokenizer(name: str) -> Any:
    """A tiny tokenizer with a template of TRL and that template's control tokens; the reasoning tags are not special, as in Qwen3."""
    text = (FOLDER / f"{name}.jinja").read_text()
    tags = ["<think>", "</think>"]
    control = [token for token in dict.fromkeys(_CONTROL.findall(text)) if token not in (*tags, "<bos>")]
    tokenizer = new_tokenizer(["<pad>", "<bos>", "<eos>", *control], bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    tokenizer.add_tokens(tags)
    tokenizer.chat_template = text
    return tokenizer


def template_models(folder: Path, name: str) -> tuple[str, str]:
    """The directories of a language model and a preference model whose tokenizer has a template of TRL."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    tokenizer = template_tokenizer(name)
    for kind, model, more in (("lm", LlamaForCausalLM, {}), ("pm", LlamaForSequenceClassification, {"num_labels": 1})):
        tokenizer.save_pretrained(folder / kind)
        torch.manual_seed(0)
        model(config(tokenizer, 32, 1, **more)).save_pretrained(folder / kind)
    return str(folder / "lm"), str(folder / "pm")


@dataclass
class Seen:
    """What the models got."""

    requests: list[Request] = field(default_factory=list)
    """Requests of the engine, in order."""
    scored: list[list[int]] = field(default_factory=list)
    """Rows of the preference model, as token ids."""
    trained: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the last trainer."""
    policy: list[list[int]] = field(default_factory=list)
    """Prompts of the last RL trainer."""


def spy(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Record every request, scored row and training row. The real engines and trainers run."""
    seen = Seen()

    def noted(feed: Any) -> Iterator[Any]:
        for entry in feed:
            if entry is not None:
                seen.requests.append(entry[1])
            yield entry

    run, forward, build = TransformersEngine.run, PreferenceModel._forward, Run.build
    monkeypatch.setattr(TransformersEngine, "run", lambda self, feed: run(self, noted(feed)))

    def _forward(self: PreferenceModel, rows: list[list[int]]) -> list[float]:
        seen.scored += rows
        return forward(self, rows)

    def _build(self: Any, trainer: Any, config: Any, dataset: Any, *rest: Any, **more: Any) -> Any:
        seen.trained = list(dataset)
        seen.policy = [example["ids"] for example in more.get("examples", [])]
        return build(self, trainer, config, dataset, *rest, **more)

    monkeypatch.setattr(PreferenceModel, "_forward", _forward)
    monkeypatch.setattr(Run, "build", _build)
    return seen


def rendered(tokenizer: Any, messages: list[dict[str, str]], opened: bool) -> str:
    """A conversation as the template itself renders it; contents are parts if it takes only those."""
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened))
    except Exception:  # this template takes only parts
        text = ""
    if messages[-1]["content"] not in text:
        text = str(tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=opened))
    return text


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a rendered text, as transformers would give them to the model."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)
