"""A scorer of ratings: a sequence classifier with one output, trained by squared error on a number per conversation.

The paper predicts absolute harmfulness with such a model (section 4.5, figure 10), from the ratings that red-teamers gave to
their own conversations (Ganguli et al. 2022). It starts, renders and saves as a preference model does (`training/pm.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError
from cai_cli.training.examples import RatedExample, rated_error, rated_example
from cai_cli.training.memory import Load
from cai_cli.training.pm import padding, saved_scorer, slices
from cai_cli.training.run import Run
from cai_cli.training.settings import Settings


@dataclass(frozen=True)
class ScoredRating:
    """One held-out conversation with the trained model's score."""

    source: str
    """The name of its file, or of the file that it was mixed from."""
    rating: float
    score: float


Measure = Callable[[list[ScoredRating]], Record]
"""Makes a report of the held-out conversations (`evaluation/rating_report.py`)."""


def train(settings: Settings, measure: Measure | None = None) -> Any:
    """Train a scorer from `settings.model` on the rated conversations of `settings.files` into `settings.output`.

    `measure` makes the report of the held-out conversations. Returns TRL's trainer; None if it was done before.
    """
    if settings.keep_adapter:
        raise InputError("--keep-adapter: an adapter's files cannot say that it predicts ratings; leave the flag out to merge it")
    run: Run[RatedExample] = Run(settings, rated_error, "RewardConfig", classifier=True, target="score")
    pad_token = padding(run.renderer, run.format, run.folder)
    run.prepare(
        lambda record: [record],
        lambda record: rated_example(run.renderer, run.format, settings.shown(record), run.longest),
        RatedExample,
        lambda example: len(example["input_ids"]),
    )
    load = Load(settings.batch_size, run.data.longest(), classifier=True)
    if not run.fit(load) or not run.open(target="score"):
        return None
    run.about["target"] = "score"

    from cai_cli.training.losses import RatedCollator, RatingTrainer

    dataset, config = run.grouped(max_length=None, pad_token=pad_token)
    collator = RatedCollator(run.renderer.tokenizer.get_vocab()[pad_token])
    trainer = run.build(RatingTrainer, config, dataset, data_collator=collator)
    trainer.model.config.cai_target = "score"  # `cai rl` and the figures read it
    run.train(trainer, rows=len(run.data.training), report=_report(run, measure))
    return trainer


def _report(run: Run[RatedExample], measure: Measure | None) -> Callable[[Path], Record] | None:
    """A function that evaluates the saved model on the held-out conversations; None if there are none."""
    if not measure or not run.data.held_out:
        return None
    return lambda saved: measure(scored_ratings(run, saved))


def scored_ratings(run: Run[RatedExample], saved: Path) -> list[ScoredRating]:
    """The held-out conversations with the saved model's scores, the same as from `cai score`."""
    scorer, found = saved_scorer(run.settings, saved), []
    for rows in slices(run.data):
        scores = scorer.score_ids([example["input_ids"] for _, example in rows])
        found += [
            ScoredRating(run.data.source(number), example["rating"], score)
            for (number, example), score in zip(rows, scores, strict=True)
        ]
    return found
