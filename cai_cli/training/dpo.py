"""Direct preference optimisation on soft labels: TRL's DPOTrainer on tokens made by `cai`.

The cheap alternative to a preference model and RL, on the same files: no preference model is trained and no answers are
sampled. The loss is in `losses`.
"""

from __future__ import annotations

from typing import Any

from cai_cli.data.records import preference_error
from cai_cli.training.examples import AnswerMaker, DPOExample, dpo_example, longest_side, turn_end
from cai_cli.training.memory import Load
from cai_cli.training.run import Run
from cai_cli.training.settings import Settings


def train(settings: Settings, beta: float = 0.1, precompute_ref: bool = False) -> Any:
    """Train `settings.model` on the preferences of `settings.files` into the directory `settings.output`.

    `beta`: how strongly the model is kept close to the starting model. `precompute_ref`: compute the starting model's log
    probabilities once, before training, instead of keeping a second copy of it; with LoRA there is no copy anyway.
    Returns TRL's trainer; None if it was done before.
    """
    run: Run[DPOExample] = Run(settings, preference_error, "DPOConfig")
    end = turn_end(run.renderer, run.format)
    maker = AnswerMaker(run.renderer, run.format, end)
    run.prepare(
        lambda record: [record],
        lambda record: dpo_example(maker, record, run.longest),
        DPOExample,
        longest_side,
    )
    # with sharded weights TRL loads a second copy even to compute its probabilities before training
    copied = not settings.lora and (not precompute_ref or settings.layout().sharded)
    if not run.fit(Load(2 * settings.batch_size, run.data.longest(), reference=copied)) or not run.open(beta=beta):
        return None

    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from cai_cli.training.losses import SoftDPOTrainer

    # longer rows were skipped
    dataset, config = run.grouped(beta=beta, max_length=None, precompute_ref_log_probs=precompute_ref and not settings.lora)
    tokenizer = run.renderer.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = run.build(SoftDPOTrainer, config, dataset, data_collator=run.pair_collator(DataCollatorForPreference(pad), pad))
    run.train(trainer, rows=len(run.data.training), ends=end)
    return trainer
