"""The preference model: a sequence classifier with one output, trained on soft labels.

Starts from a causal model, whose head gives way to a new one, or from a preference model. What it
is trained on is tokenised by the code that renders conversations for scoring (`Renderer.judgement`).
"""

from __future__ import annotations

from pathlib import Path

from cai_cli import manifest, models, prompts
from cai_cli.engines.preference import require_preference_model
from cai_cli.errors import InputError
from cai_cli.records import preference_error
from cai_cli.tokens import Renderer
from cai_cli.training import common, data, libraries
from cai_cli.training.common import Settings, Workspace

WARMUP = 0.05
"""Share of the steps over which the learning rate rises; it then falls to 0 along a cosine."""


def padding(renderer: Renderer, format: str) -> str:
    """The token to pad with: one that stands in no conversation.

    transformers' classifiers take a row's last token that isn't padding for its end, so a model that
    pads with its end-of-turn token would be read one token early. InputError where there is none.
    """
    tokenizer = renderer.tokenizer
    taken = set(renderer.judgement(prompts.judged("question", "answer", format)).ids)
    if format == "chat":
        taken |= {*data.turn_end(renderer, format), tokenizer.eos_token_id}
    special = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]
    for token in (tokenizer.pad_token, tokenizer.unk_token, *special):
        if token and tokenizer.convert_tokens_to_ids(token) not in taken:
            return str(token)
    raise InputError(
        f"{tokenizer.name_or_path}: every special token of its tokenizer stands in conversations; add one to pad with"
    )


def starting_model(settings: Settings) -> Path:
    """The directory to start from: a causal model or a preference model."""
    folder = common.language_model(settings)
    if models.is_preference_model(folder):
        require_preference_model(folder)
    return folder


def train(settings: Settings) -> None:
    """Train a preference model from `settings.model` on `settings.files` into the directory `settings.output`."""
    folder = starting_model(settings)
    rows = data.read_all(settings.files, preference_error, settings.limit)

    renderer = Renderer(models.load_tokenizer(folder))
    format = renderer.format(settings.format)
    pad_token = padding(renderer, format)
    longest = min(settings.max_length, models.context_length(folder))
    examples = data.prepare(
        rows,
        lambda record: [record],
        lambda record: data.preference_example(renderer, format, record, longest),
        settings.seed,
    )
    model_hash = manifest.hash_model(folder)
    fingerprint = settings.fingerprint(examples.inputs, model=model_hash, format=format)
    workspace = Workspace(settings.output, fingerprint, settings.restart)
    training, held_out = examples.split(settings.eval_fraction)
    workspace.note(examples)

    libraries.calm(settings.debug)
    from datasets import Dataset
    from trl import RewardConfig

    from cai_cli.training.soft_labels import SoftCollator, SoftRewardTrainer

    arguments = RewardConfig(
        **common.arguments(settings, workspace, common.warmup_steps(settings, WARMUP, len(training)), "cosine"),
        max_length=None,  # what is too long was set aside; TRL would drop it without a word
        pad_token=pad_token,
        model_init_kwargs={"use_safetensors": True},
    )
    with libraries.loading(folder):
        trainer = SoftRewardTrainer(
            model=str(folder),  # a path, so that the new head is drawn right after the seed is set
            args=arguments,
            data_collator=SoftCollator(renderer.tokenizer.get_vocab()[pad_token]),
            train_dataset=Dataset.from_list(training),
            eval_dataset=Dataset.from_list([example for _, example in held_out]) if held_out else None,
            processing_class=renderer.tokenizer,
        )
    about = {"model": {"name": settings.model, "sha256": model_hash}, "fingerprint": fingerprint}
    common.train(trainer, settings, workspace, examples, about)
