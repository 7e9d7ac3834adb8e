"""The preference model: a sequence classifier with one output, trained on soft labels (paper, section 4.1).

It starts from a causal model, whose head is replaced by a new one, or from a preference model. The code that renders
conversations for scoring (`Renderer.score_request`) also tokenises the training data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from cai_cli.data.jsonl import Record
from cai_cli.data.records import preference_error
from cai_cli.engines import models
from cai_cli.engines.scorer import PreferenceModel
from cai_cli.errors import InputError
from cai_cli.method import prompts
from cai_cli.method.constitution import Constitution
from cai_cli.method.tokens import Renderer
from cai_cli.training import conditioned
from cai_cli.training.data import Data
from cai_cli.training.examples import PreferenceExample, longest_side, preference_example, turn_end
from cai_cli.training.memory import Load
from cai_cli.training.run import Run
from cai_cli.training.settings import Settings

SLICE = 1000
"""Held-out examples that are in memory at once."""
T = TypeVar("T")


@dataclass(frozen=True)
class ScoredPair:
    """One held-out pair with the trained model's scores."""

    source: str
    """The name of its file, or of the file that it was mixed from."""
    p_chosen: float
    """The label: the probability that the chosen answer is the better one."""
    margin: float
    """The model's score of the chosen answer minus that of the rejected one."""
    longer: int
    """The tokens of the chosen conversation minus those of the rejected one."""


Measure = Callable[[list[ScoredPair]], Record]
"""Makes a report of the held-out pairs (`evaluation/pm_report.py`)."""


def padding(renderer: Renderer, format: str, folder: Path) -> str:
    """The token to pad with: one that occurs in no conversation and ends none. InputError if there is no such token.

    transformers' classifiers read the score at a row's last token that is not padding. A model that pads with its end-of-turn
    token would be read one token early.
    """
    tokenizer = renderer.tokenizer
    taken = set(renderer.score_request(prompts.pm_input("question", "answer", format)).ids)
    ends = {*turn_end(renderer, format), tokenizer.eos_token_id, *models.generation_ends(folder)}
    special = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]
    # plain transcripts hold no end token, so one may pad them if the tokenizer has no other
    for refused in [taken | ends] + [taken] * (format != "chat"):
        for token in (tokenizer.pad_token, tokenizer.unk_token, *special):
            if token and tokenizer.convert_tokens_to_ids(token) not in refused:
                return str(token)
    raise InputError(f"{tokenizer.name_or_path}: conversations use every special token of its tokenizer; add one to pad with")


def train(settings: Settings, measure: Measure | None = None, constitution: Constitution | None = None) -> Any:
    """Train a preference model from `settings.model` on `settings.files` into the directory `settings.output`.

    `measure` makes the report of the held-out pairs. With a `constitution` the model reads the principles of the labels (see
    `conditioned`). Returns TRL's trainer; None if it was done before.
    """
    if constitution:
        constitution.require("compare")
    conditions = {"conditioned": constitution.sha256} if constitution else {}
    run: Run[PreferenceExample] = Run(settings, preference_error, "RewardConfig", classifier=True, **cast(Any, conditions))
    pad_token = padding(run.renderer, run.format, run.folder)
    if constitution:
        conditioned.warn_of_others((source.path for source in run.files.sources), constitution)
    run.prepare(
        lambda record: conditioned.parts(record, constitution) if constitution else [record],
        lambda record: preference_example(run.renderer, run.format, settings.shown(record), run.longest),
        PreferenceExample,
        longest_side,
    )
    if not run.fit(Load(2 * settings.batch_size, run.data.longest(), classifier=True)) or not run.open(**conditions):
        return None

    from trl.trainer.reward_trainer import DataCollatorForPreference

    from cai_cli.training.losses import SoftRewardTrainer

    # max_length: longer rows were skipped; TRL would drop them silently
    dataset, config = run.grouped(max_length=None, pad_token=pad_token)
    pad = run.renderer.tokenizer.get_vocab()[pad_token]
    trainer = run.build(SoftRewardTrainer, config, dataset, data_collator=run.pair_collator(DataCollatorForPreference(pad), pad))
    # it may have started from a scorer of ratings
    trainer.model.config.cai_target = conditioned.TARGET if constitution else "preference"
    run.train(trainer, rows=len(run.data.training), report=_report(run, measure))
    return trainer


def _report(run: Run[PreferenceExample], measure: Measure | None) -> Callable[[Path], Record] | None:
    """A function that evaluates the saved model on the held-out pairs; None if there are none."""
    if not measure or not run.data.held_out:
        return None
    return lambda saved: measure(scored_pairs(run, saved))


def saved_scorer(settings: Settings, saved: Path) -> PreferenceModel:
    """The model that a run has saved, loaded as `cai score` loads it."""
    return PreferenceModel(models.resolve(str(saved)), settings.dtype, trust_remote_code=settings.trust_remote_code)


def slices(data: Data[T]) -> Iterator[list[tuple[int, T]]]:
    """The held-out examples with their numbers, SLICE at a time."""
    for start in range(0, len(data.held_out), SLICE):
        yield [(number, data[number]) for number in data.held_out[start : start + SLICE]]


def scored_pairs(run: Run[PreferenceExample], saved: Path) -> list[ScoredPair]:
    """The held-out pairs with the saved model's scores, the same as from `cai score`."""
    scorer, found = saved_scorer(run.settings, saved), []
    for pairs in slices(run.data):
        scores = scorer.score_ids([ids for _, pair in pairs for ids in (pair["chosen_ids"], pair["rejected_ids"])])
        found += [
            ScoredPair(
                source=run.data.source(number),
                p_chosen=pair["p_chosen"],
                margin=chosen - rejected,
                longer=len(pair["chosen_ids"]) - len(pair["rejected_ids"]),
            )
            for (number, pair), chosen, rejected in zip(pairs, scores[::2], scores[1::2], strict=True)
        ]
    return found
