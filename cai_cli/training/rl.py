"""Reinforcement learning against the preference model (RL-CAI): TRL's GRPOTrainer.

The reward is the preference model's raw score of the whole conversation, rendered by the code that
rendered its training data, in its own tokens. A KL term holds the policy to the model it starts from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cai_cli import manifest, models
from cai_cli.engines.preference import PreferenceModel, require_preference_model
from cai_cli.errors import InputError
from cai_cli.records import prompt_error
from cai_cli.seeds import draw
from cai_cli.tokens import Renderer
from cai_cli.training import common, data, libraries
from cai_cli.training.common import Settings, Workspace
from cai_cli.transcripts import STOPS


@dataclass
class Rollout:
    """What RL alone has: the reward, the pull back to the start, and how answers are drawn."""

    pm: str
    kl: float = 0.1
    generations: int = 4
    max_tokens: int = 256
    temperature: float = 1.0


def prompt_order(prompts: int, length: int, seed: int) -> list[int]:
    """The prompts' numbers for a whole run, `length` of them: pass after pass, each in an order of its own.

    TRL's sampler forgets its passes where a run is resumed, and drops what doesn't fill a batch.
    """
    passes = range(math.ceil(length / prompts))
    return [i for turn in passes for i in sorted(range(prompts), key=lambda i: draw(seed, "order", turn, i))][:length]


def train(settings: Settings, rollout: Rollout) -> None:
    """Train the policy `settings.model` on the prompts of `settings.files` into the directory `settings.output`.

    `settings.batch_size` counts prompts; each gets `rollout.generations` answers.
    """
    pm_folder = models.resolve(rollout.pm)
    folder = common.language_model(settings, pm_folder)
    common.require_causal(folder)
    require_preference_model(pm_folder)
    rows = data.read_all(settings.files, prompt_error, settings.limit)

    renderer, judge = Renderer(models.load_tokenizer(folder)), Renderer(models.load_tokenizer(pm_folder))
    format, judged_format = renderer.format(settings.format), judge.format(settings.format)
    longest = min(settings.max_length, models.context_length(folder)) - rollout.max_tokens
    pm_context = models.context_length(pm_folder)
    if min(longest, pm_context - rollout.max_tokens) < 1:
        raise InputError(f"--max-tokens {rollout.max_tokens} leaves no room for a prompt; lower it, or raise --max-length")
    examples = data.prepare(
        rows,
        lambda record: [record],
        lambda record: data.rl_prompt(renderer, format, judge, judged_format, record, longest, pm_context - rollout.max_tokens),
        settings.seed,
    )
    hashes = {"model": manifest.hash_model(folder), "pm": manifest.hash_model(pm_folder)}
    options = {name: value for name, value in vars(rollout).items() if name != "pm"}
    fingerprint = settings.fingerprint(examples.inputs, **hashes, **options, format=format)
    workspace = Workspace(settings.output, fingerprint, settings.restart)
    workspace.note(examples)

    libraries.calm(settings.debug)
    from datasets import Dataset
    from trl import GRPOConfig

    from cai_cli.training.policy import Reward, TokenPolicy

    found = [example for _, example in examples.examples]
    each = settings.batch_size * settings.grad_accum
    steps = settings.steps or math.ceil(settings.epochs * len(found) / each)
    order = prompt_order(len(found), steps * each, settings.seed)
    arguments = common.arguments(settings, workspace, 0, "constant") | {
        "max_steps": steps,
        "per_device_train_batch_size": settings.batch_size * rollout.generations,
    }
    config = GRPOConfig(
        **arguments,
        num_generations=rollout.generations,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        beta=rollout.kl,
        shuffle_dataset=False,  # `order` is shuffled
        disable_dropout=True,  # so that the KL is zero where the weights are the same
        model_init_kwargs={"use_safetensors": True},
    )
    stops = () if format == "chat" else STOPS
    pm, log = PreferenceModel(pm_folder, settings.dtype), workspace.log("samples.jsonl")
    reward = Reward(pm, judge, judged_format, pm_context, renderer, stops, found, log)
    with libraries.loading(folder):
        trainer = TokenPolicy(
            model=str(folder),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [str(number) for number in order]}),
            processing_class=renderer.tokenizer,
            examples=found,
            stops=stops,
        )
    about = {
        "model": {"name": settings.model, "sha256": hashes["model"]},
        "pm": {"name": rollout.pm, "sha256": hashes["pm"]},
        "fingerprint": fingerprint,
    }
    common.train(trainer, settings, workspace, examples, about)
