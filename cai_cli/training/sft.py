"""Supervised fine-tuning on completions (SL-CAI): TRL's SFTTrainer on tokens made by `cai` (paper, section 3.2).

Examples are `input_ids` and `labels`, tokenised by the same code as the prompts of the generating commands, so a model is
trained on exactly what it will be given. The loss is the mean cross-entropy of the answers' tokens and of the tokens that
end the turn. The prompts' tokens have no loss.
"""

from __future__ import annotations

from typing import Any

from cai_cli import streams
from cai_cli.training import arguments
from cai_cli.training.examples import AnswerMaker, SFTExample, answers, sft_error, sft_example, turn_end
from cai_cli.training.memory import Load
from cai_cli.training.run import Run
from cai_cli.training.settings import Settings


def train(
    settings: Settings, revisions: str = "all", packing: bool = False, keep_cut: bool = False, learn_reasoning: bool = False
) -> Any:
    """Fine-tune `settings.model` on `settings.files` into the directory `settings.output`; returns TRL's trainer.

    `revisions`: train on "all" revisions of a record, as in the paper (section 3.2), or only on the "last". `packing`: fill
    rows of --max-length with examples that do not see each other; otherwise a step's examples are of similar length.
    `keep_cut`: also train on truncated answers, without an end. `learn_reasoning`: also train on the records' reasoning.
    """
    run: Run[SFTExample] = Run(
        settings, sft_error, "SFTConfig", revisions=revisions, keep_cut=keep_cut, learn_reasoning=learn_reasoning
    )
    end = turn_end(run.renderer, run.format)
    maker = AnswerMaker(run.renderer, run.format, end, learn_reasoning)
    run.prepare(
        lambda record: answers(record, revisions),
        lambda answer: sft_example(maker, answer, run.longest, keep_cut),
        SFTExample,
        lambda example: len(example["input_ids"]),
    )
    if pairs := run.data.counts["preferences"]:
        streams.say(f"cai train-sft: {streams.plural(pairs, 'preference')}: training on the chosen answers only", settings.quiet)
    if not run.fit(Load(settings.batch_size, run.longest if packing else run.data.longest())):
        return None
    if not run.open(revisions=revisions, packing=packing, keep_cut=keep_cut, learn_reasoning=learn_reasoning):
        return None

    from trl import SFTTrainer

    dataset, config = _packed(run) if packing else run.grouped(max_length=None)
    trainer = run.build(SFTTrainer, config, dataset)
    run.train(trainer, rows=None if packing else len(run.data.training), ends=end)
    return trainer


def _packed(run: Run[SFTExample]) -> tuple[Any, Any]:
    """(dataset, configuration) with --packing: TRL fills the rows."""
    # the number of rows is not known yet, so the warm-up is a share of the steps
    warmup = None if run.settings.steps else arguments.WARMUP
    config = run.config(warmup=warmup, packing=True, eval_packing=False, max_length=run.longest)
    return run.data.dataset(run.data.training), config
