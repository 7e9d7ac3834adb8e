"""Supervised fine-tuning on completions (SL-CAI): TRL's SFTTrainer on tokens that we made.

Examples come as `input_ids` and `labels`, tokenised by the same code as the prompts of the
generating commands, so what a model is trained on is what it will be given. The loss is the mean
cross-entropy of the answers' tokens and of the token that ends the turn; prompts carry none.
"""

from __future__ import annotations

import math
from typing import Any

from cai_cli import manifest
from cai_cli.training import data, libraries, order, run
from cai_cli.training import settings as common
from cai_cli.training.settings import Settings
from cai_cli.training.workspace import Workspace


def train(settings: Settings, revisions: str = "all", packing: bool = False) -> Any:
    """Fine-tune `settings.model` on `settings.files` into the directory `settings.output`; returns TRL's trainer.

    `revisions`: train on "all" revisions of a record, or on the "last" alone. `packing`: fill rows of --max-length with
    examples that don't see each other; else a step's examples are of like length.
    """
    folder = common.language_model(settings)
    common.require_causal(folder)
    rows = data.read_all(settings, data.sft_error)

    renderer, format, longest = common.tokens_of(settings, folder)
    end = data.turn_end(renderer, format)
    examples = data.prepare(
        rows,
        lambda record: data.conversations(record, revisions),
        lambda part: data.sft_example(renderer, format, end, *part, longest),
        settings,
    )
    model_hash = manifest.hash_model(folder)
    fingerprint = settings.fingerprint(examples, model=model_hash, revisions=revisions, format=format, packing=packing)
    workspace = Workspace(settings.output, fingerprint, settings.restart)
    workspace.note(examples)

    libraries.calm(settings.debug)
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    training = examples.training
    sizes = [len(example["input_ids"]) for example in (*training, *examples.testing)]
    warmup = common.warmup_steps(settings, len(training))
    arguments = common.arguments(settings, workspace, warmup, None if packing else max(sizes))
    dataset = Dataset.from_list(training)
    if packing:
        arguments |= {"packing": True, "eval_packing": False, "max_length": longest}
        if not settings.steps:  # how many rows there will be isn't known yet: a share of the steps
            arguments |= {"warmup_steps": common.WARMUP}
    else:
        length = settings.steps * settings.per_step() if settings.steps else math.ceil(settings.epochs * len(training))
        dataset = dataset.select(order.grouped(sizes[: len(training)], length, settings.per_step(), settings.seed))
        # max_length: what is too long was set aside; TRL would cut it short
        arguments |= {"max_length": None, "train_sampling_strategy": "sequential"}
        arguments |= {"max_steps": math.ceil(length / settings.per_step())}
    with libraries.loading(folder):
        trainer = SFTTrainer(
            model=str(folder),
            args=SFTConfig(**arguments),
            train_dataset=dataset,
            eval_dataset=Dataset.from_list(examples.testing) if examples.held_out else None,
            processing_class=renderer.tokenizer,
            peft_config=common.adapter(settings),
        )
    about = {"model": {"name": settings.model, "sha256": model_hash}, "fingerprint": fingerprint}
    run.train(trainer, settings, workspace, examples, about, rows=None if packing else len(training), ends=end)
    return trainer
