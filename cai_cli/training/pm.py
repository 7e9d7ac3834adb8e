"""The preference model: a sequence classifier with one output, trained on soft labels.

Starts from a causal model, whose head gives way to a new one, or from a preference model. What it
is trained on is tokenised by the code that renders conversations for scoring (`Renderer.judgement`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai_cli import manifest, models, prompts, streams
from cai_cli.engines.preference import PreferenceModel, require_preference_model
from cai_cli.errors import InputError
from cai_cli.evaluation import preference
from cai_cli.jsonl import Record
from cai_cli.records import preference_error
from cai_cli.tokens import Renderer
from cai_cli.training import data, libraries, run
from cai_cli.training import settings as common
from cai_cli.training.settings import Settings
from cai_cli.training.workspace import Workspace


def padding(renderer: Renderer, format: str, folder: Path) -> str:
    """The token to pad with: one that stands in no conversation and ends none.

    transformers' classifiers take a row's last token that isn't padding for its end, so a model that
    pads with its end-of-turn token would be read one token early. InputError where there is none.
    """
    tokenizer = renderer.tokenizer
    taken = set(renderer.judgement(prompts.judged("question", "answer", format)).ids)
    ends = {*data.turn_end(renderer, format), tokenizer.eos_token_id, *models.generation_ends(folder)}
    special = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]
    # plain transcripts hold no end token, so one may pad them where the tokenizer has no other
    for refused in [taken | ends] + [taken] * (format != "chat"):
        for token in (tokenizer.pad_token, tokenizer.unk_token, *special):
            if token and tokenizer.convert_tokens_to_ids(token) not in refused:
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


def train(settings: Settings) -> Any:
    """Train a preference model from `settings.model` on `settings.files` into the directory `settings.output`.

    Returns TRL's trainer.
    """
    folder = starting_model(settings)
    rows = data.read_all(settings, preference_error)

    renderer, format, longest = common.tokens_of(settings, folder)
    pad_token = padding(renderer, format, folder)
    examples = data.prepare(
        rows,
        lambda record: [record],
        lambda record: data.preference_example(renderer, format, record, longest),
        settings,
    )
    model_hash = manifest.hash_model(folder)
    fingerprint = settings.fingerprint(examples, model=model_hash, format=format)
    workspace = Workspace(settings.output, fingerprint, settings.restart)
    workspace.note(examples)

    libraries.calm(settings.debug)
    from datasets import Dataset
    from trl import RewardConfig
    from trl.trainer.reward_trainer import DataCollatorForPreference

    from cai_cli.training.preferences import SoftCollator, SoftRewardTrainer

    most = data.longest_side([*examples.training, *examples.testing])
    arguments = RewardConfig(
        **common.arguments(settings, workspace, common.warmup_steps(settings, len(examples.examples)), most),
        max_length=None,  # what is too long was set aside; TRL would drop it without a word
        pad_token=pad_token,
    )
    with libraries.loading(folder):
        trainer = SoftRewardTrainer(
            model=str(folder),  # a path, so that the new head is drawn right after the seed is set
            args=arguments,
            data_collator=SoftCollator(DataCollatorForPreference(renderer.tokenizer.get_vocab()[pad_token])),
            train_dataset=Dataset.from_list(examples.training),
            eval_dataset=Dataset.from_list(examples.testing) if examples.held_out else None,
            processing_class=renderer.tokenizer,
            peft_config=common.adapter(settings, classifier=True),
        )
    about = {"model": {"name": settings.model, "sha256": model_hash}, "fingerprint": fingerprint}

    def report(saved: Path) -> Record:
        return evaluate(saved, settings, examples.held_out)

    if examples.held_out and settings.keep_adapter:
        streams.warn("no table of the held-out pairs: with --keep-adapter there is no whole model to score them with")
    measured = examples.held_out and not settings.keep_adapter  # an adapter alone can't be loaded and scored
    run.train(trainer, settings, workspace, examples, about, report=report if measured else None)
    return trainer


def evaluate(saved: Path, settings: Settings, held_out: list[tuple[data.Row, Record]]) -> Record:
    """Score the held-out pairs with the saved model, as `cai score` does, and show how well it agrees with their labels."""
    scorer = PreferenceModel(saved, settings.dtype)
    scores = scorer.score_ids([example[f"{side}_ids"] for _, example in held_out for side in ("chosen", "rejected")])
    pairs = [
        preference.Pair(
            source=str(row.record.get("mixed_from") or Path(row.path).name),
            p_chosen=example["p_chosen"],
            margin=chosen - rejected,
            longer=len(example["chosen_ids"]) - len(example["rejected_ids"]),
        )
        for (row, example), chosen, rejected in zip(held_out, scores[::2], scores[1::2], strict=True)
    ]
    rows = preference.report(pairs)
    if not settings.quiet:
        streams.print_table(preference.table(rows), stderr=True)
    return {"pairs": rows}
