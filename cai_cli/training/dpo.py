"""Direct preference optimisation on soft labels: TRL's DPOTrainer on tokens that we made.

The cheap alternative to a preference model and RL, on the same files: no model of the reward is trained, and no answers are
drawn. See `preferences` for the loss.
"""

from __future__ import annotations

from typing import Any

from cai_cli import manifest
from cai_cli.records import preference_error
from cai_cli.training import data, libraries, run
from cai_cli.training import settings as common
from cai_cli.training.settings import Settings
from cai_cli.training.workspace import Workspace


def train(settings: Settings, beta: float = 0.1) -> Any:
    """Train `settings.model` on the preferences of `settings.files` into the directory `settings.output`.

    `beta` is the weight that holds the model to where it starts. Returns TRL's trainer.
    """
    folder = common.language_model(settings)
    common.require_causal(folder)
    rows = data.read_all(settings, preference_error)

    renderer, format, longest = common.tokens_of(settings, folder)
    end = data.turn_end(renderer, format)
    examples = data.prepare(
        rows,
        lambda record: [record],
        lambda record: data.dpo_example(renderer, format, end, record, longest),
        settings,
    )
    model_hash = manifest.hash_model(folder)
    fingerprint = settings.fingerprint(examples, model=model_hash, format=format, beta=beta)
    workspace = Workspace(settings.output, fingerprint, settings.restart)
    workspace.note(examples)

    libraries.calm(settings.debug)
    from datasets import Dataset
    from trl import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from cai_cli.training.preferences import SoftCollator, SoftDPOTrainer

    most = data.longest_side([*examples.training, *examples.testing])
    arguments = DPOConfig(
        **common.arguments(settings, workspace, common.warmup_steps(settings, len(examples.examples)), most),
        beta=beta,
        max_length=None,  # what is too long was set aside
    )
    tokenizer = renderer.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with libraries.loading(folder):
        trainer = SoftDPOTrainer(
            model=str(folder),
            args=arguments,
            data_collator=SoftCollator(DataCollatorForPreference(pad)),
            train_dataset=Dataset.from_list(examples.training),
            eval_dataset=Dataset.from_list(examples.testing) if examples.held_out else None,
            processing_class=tokenizer,
            peft_config=common.adapter(settings),
        )
    about = {"model": {"name": settings.model, "sha256": model_hash}, "fingerprint": fingerprint}
    run.train(trainer, settings, workspace, examples, about, ends=end)
    return trainer
