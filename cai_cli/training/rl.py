"""Reinforcement learning against preference models (RL-CAI): TRL's GRPOTrainer or RLOOTrainer.

The reward is the preference models' raw score of the whole conversation, rendered by the code that
rendered their training data, in their own tokens. A KL term holds the policy to the model it starts from.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cai_cli import manifest, models
from cai_cli.engines.preference import PreferenceModel, require_preference_model
from cai_cli.errors import InputError
from cai_cli.jsonl import Record
from cai_cli.records import prompt_error
from cai_cli.tokens import Renderer
from cai_cli.training import data, libraries, order, run
from cai_cli.training import settings as common
from cai_cli.training.settings import Settings
from cai_cli.training.shaping import Shaping
from cai_cli.training.workspace import Workspace
from cai_cli.transcripts import STOPS

VLLM_MEMORY = 0.3
"""Share of a GPU's memory for vLLM beside the policy, while it generates; it sleeps while the policy learns."""


@dataclass
class Rollout:
    """What RL alone has: the reward, the pull back to the start, how answers are drawn, and what is watched.

    `pms` are the preference models' names, each with `=WEIGHT` where it isn't 1. `samples_every` is in steps.
    """

    pms: list[str]
    algo: str = "grpo"
    kl: float = 0.1
    generations: int = 4
    max_tokens: int = 256
    temperature: float = 1.0
    shaping: Shaping = field(default_factory=Shaping)
    engine: str = "auto"
    samples_every: int = 5
    max_kl: float | None = None
    stop_on_kl: bool = False


def weighted(names: list[str]) -> list[tuple[Path, str, float]]:
    """(directory, name, weight) of each preference model given as NAME or NAME=WEIGHT. InputError where one won't do."""
    found = []
    for entry in names:
        name, equals, weight = entry.rpartition("=")
        if not equals or Path(entry).exists():
            name, weight = entry, "1"
        try:
            value = float(weight)
        except ValueError:
            raise InputError(f"--pm {entry}: write MODEL or MODEL=WEIGHT, the weight a number") from None
        if not math.isfinite(value):
            raise InputError(f"--pm {entry}: the weight must be a finite number")
        folder = models.resolve(name)
        require_preference_model(folder)
        found.append((folder, name, value))
    return found


def generator(engine: str, context: int) -> dict[str, Any]:
    """TRL's arguments for where answers are drawn: in vLLM, in this process, where there is a GPU for it.

    `context` is the longest conversation, in tokens.
    """
    can = models.device() == "cuda" and find_spec("vllm") is not None
    if engine == "vllm" and not can:
        raise InputError("--engine vllm: RL generates in vLLM on a GPU only, with vllm installed; take transformers here")
    if engine == "transformers" or not can:
        return {}
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": True,
        "vllm_gpu_memory_utilization": VLLM_MEMORY,
        "vllm_max_model_length": context,
    }


def train(settings: Settings, rollout: Rollout) -> Any:
    """Train the policy `settings.model` on the prompts of `settings.files` into the directory `settings.output`.

    `settings.batch_size` counts prompts; each gets `rollout.generations` answers. Returns TRL's trainer.
    """
    if rollout.kl == 0 and rollout.stop_on_kl:
        raise InputError("--stop-on-kl needs the KL, which isn't computed with --kl 0; give a small one, such as 0.001")
    pms = weighted(rollout.pms)
    folder = common.language_model(settings, *(pm for pm, _, _ in pms))
    common.require_causal(folder)
    rows = data.read_all(settings, prompt_error)

    renderer, format, context = common.tokens_of(settings, folder)
    readers = [Renderer(models.load_tokenizer(pm)) for pm, _, _ in pms]
    formats = [reader.format(settings.format) for reader in readers]
    longest = context - rollout.max_tokens
    contexts = [models.context_length(pm) for pm, _, _ in pms]
    if min(longest, *(context - rollout.max_tokens for context in contexts)) < 1:
        raise InputError(f"--max-tokens {rollout.max_tokens} leaves no room for a prompt; lower it, or raise --max-length")

    def example(record: Record) -> Record:
        found = data.rl_prompt(renderer, format, record, longest)
        for reader, judged, context in zip(readers, formats, contexts, strict=True):
            data.require_judgeable(reader, judged, record, context - rollout.max_tokens)
        return found

    examples = data.prepare(rows, lambda record: [record], example, settings)
    hashes = {"model": manifest.hash_model(folder), "pm": [[manifest.hash_model(pm), weight] for pm, _, weight in pms]}
    watched = ("pms", "engine", "max_kl", "stop_on_kl")
    options = {name: value for name, value in asdict(rollout).items() if name not in watched}
    fingerprint = settings.fingerprint(examples, **hashes, **options, format=format)
    generation = generator(rollout.engine, context)
    workspace = Workspace(settings.output, fingerprint, settings.restart)
    workspace.note(examples)

    libraries.calm(settings.debug)
    from datasets import Dataset
    from trl import GRPOConfig, RLOOConfig

    from cai_cli.training.policy import GRPO, RLOO, Judge, Reward

    training, held_out = examples.training, [{**found, "held_out": True} for found in examples.testing]
    numbered = training + held_out
    steps = settings.steps or math.ceil(settings.epochs * len(training) / settings.per_step())
    drawn = order.passes(len(training), steps * settings.per_step(), settings.seed)
    rows_at_once = settings.batch_size * rollout.generations
    arguments = common.arguments(settings, workspace, 0, scheduler="constant") | {
        "max_steps": steps,
        "per_device_train_batch_size": rows_at_once,
        "per_device_eval_batch_size": rows_at_once,
    }
    trainers = {"grpo": (GRPO, GRPOConfig), "rloo": (RLOO, RLOOConfig)}
    trainer_class, config_class = trainers[rollout.algo]
    config = config_class(
        **arguments,
        **generation,
        num_generations=rollout.generations,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        beta=rollout.kl,
        shuffle_dataset=False,  # `drawn` is shuffled
        disable_dropout=True,  # so that the KL is zero where the weights are the same
    )
    stops = () if format == "chat" else STOPS
    judges = [
        Judge(PreferenceModel(pm, settings.dtype), reader, judged, context, weight)
        for (pm, _, weight), reader, judged, context in zip(pms, readers, formats, contexts, strict=True)
    ]
    ends = {*data.turn_end(renderer, format)[-1:], renderer.tokenizer.eos_token_id}
    log = workspace.log("samples.jsonl")
    reward = Reward(judges, rollout.shaping, renderer, stops, ends, numbered, log, rollout.samples_every)
    last = range(len(training), len(numbered))
    with libraries.loading(folder):
        trainer: Any = trainer_class(
            model=str(folder),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [str(number) for number in drawn]}),
            eval_dataset=Dataset.from_dict({"prompt": [str(number) for number in last]}) if held_out else None,
            processing_class=renderer.tokenizer,
            peft_config=common.adapter(settings),
            examples=numbered,
            stops=stops,
        )
    reward.ends |= set(trainer.eos_token_ids)
    judged_by = [
        {"name": name, "sha256": sha, "weight": weight} for (_, name, weight), (sha, _) in zip(pms, hashes["pm"], strict=True)
    ]
    about = {"model": {"name": settings.model, "sha256": hashes["model"]}, "pm": judged_by, "fingerprint": fingerprint}
    run.train(
        trainer, settings, workspace, examples, about,
        rows=len(training), max_kl=rollout.max_kl, stop_on_kl=rollout.stop_on_kl,
    )  # fmt: skip
    return trainer
