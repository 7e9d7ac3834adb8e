"""Supervised fine-tuning on completions (SL-CAI): TRL's SFTTrainer on tokens that we made.

Examples come as `input_ids` and `labels`, tokenised by the same code as the prompts of the
generating commands, so what a model is trained on is what it will be given. The loss is the mean
cross-entropy of the answers' tokens and of the token that ends the turn; prompts carry none.
"""

from __future__ import annotations

from cai_cli import manifest, models
from cai_cli.tokens import Renderer
from cai_cli.training import common, data, libraries
from cai_cli.training.common import Settings, Workspace

WARMUP = 0.05
"""Share of the steps over which the learning rate rises; it then falls to 0 along a cosine."""


def train(settings: Settings, revisions: str = "all") -> None:
    """Fine-tune `settings.model` on `settings.files` into the directory `settings.output`.

    `revisions`: train on "all" revisions of a record, or on the "last" alone.
    """
    folder = common.language_model(settings)
    common.require_causal(folder)
    rows = data.read_all(settings.files, data.sft_error, settings.limit)

    renderer = Renderer(models.load_tokenizer(folder))
    format = renderer.format(settings.format)
    end = data.turn_end(renderer, format)
    longest = min(settings.max_length, models.context_length(folder))
    examples = data.prepare(
        rows,
        lambda record: data.conversations(record, revisions),
        lambda part: data.sft_example(renderer, format, end, *part, longest),
        settings.seed,
    )
    model_hash = manifest.hash_model(folder)
    fingerprint = settings.fingerprint(examples.inputs, model=model_hash, revisions=revisions, format=format)
    workspace = Workspace(settings.output, fingerprint, settings.restart)
    training, held_out = examples.split(settings.eval_fraction)
    workspace.note(examples)

    libraries.calm(settings.debug)
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        **common.arguments(settings, workspace, common.warmup_steps(settings, WARMUP, len(training)), "cosine"),
        max_length=None,  # what is too long was set aside; TRL would cut it short
        model_init_kwargs={"use_safetensors": True},
    )
    with libraries.loading(folder):
        trainer = SFTTrainer(
            model=str(folder),
            args=arguments,
            train_dataset=Dataset.from_list(training),
            eval_dataset=Dataset.from_list([example for _, example in held_out]) if held_out else None,
            processing_class=renderer.tokenizer,
        )
    about = {"model": {"name": settings.model, "sha256": model_hash}, "fingerprint": fingerprint}
    common.train(trainer, settings, workspace, examples, about)
