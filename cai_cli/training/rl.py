"""Reinforcement learning against preference models (RL-CAI; paper, section 4): TRL's GRPOTrainer or RLOOTrainer.

The reward is the preference models' raw score of the whole conversation, in their own tokens. The code that rendered their
training data also renders the conversation. A feedback model may judge the answers instead, or too (`feedback`). A KL term
keeps the policy close to the model that it starts from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_cli.data.jsonl import Record
from cai_cli.data.records import prompt_error
from cai_cli.data.transcripts import STOPS
from cai_cli.engines import models
from cai_cli.engines.scorer import PreferenceModel, require_preference_model
from cai_cli.errors import InputError
from cai_cli.method import rubrics
from cai_cli.method.constitution import Constitution
from cai_cli.method.prompts import judged_by
from cai_cli.method.tokens import Renderer
from cai_cli.pipeline import manifest
from cai_cli.training import order
from cai_cli.training.conditioned import TARGET, require_principles
from cai_cli.training.data import Data, split_weight
from cai_cli.training.examples import RLExample, require_pm_length, rl_prompt, turn_end
from cai_cli.training.feedback import Feedback, FeedbackModel, ending, reader
from cai_cli.training.memory import Load
from cai_cli.training.run import Run
from cai_cli.training.settings import Settings
from cai_cli.training.shaping import Shaping

if TYPE_CHECKING:
    from cai_cli.training.policy import Reward

_TRAINERS = {"grpo": ("GRPO", "GRPOConfig"), "rloo": ("RLOO", "RLOOConfig")}
"""(our trainer, TRL's configuration) of each --algo."""
VLLM_MEMORY = 0.3
"""The default share of a GPU's memory that vLLM uses beside the policy while it generates. It sleeps during training."""
_NOT_IN_FINGERPRINT = ("pms", "feedback", "principles", "engine", "gpu_memory", "max_kl", "stop_on_kl")


@dataclass
class Rollout:
    """The options of RL beside `Settings`: the reward, the KL, how answers are sampled, and what is logged."""

    pms: list[str]
    """The preference models' names, each with `=WEIGHT` if it is not 1."""
    algo: str = "grpo"
    """"grpo" or "rloo"."""
    kl_coef: float = 0.1
    """The weight of the KL term (TRL's `beta`)."""
    num_generations: int = 4
    """Answers per prompt."""
    max_tokens: int = 256
    """The longest answer, in tokens."""
    temperature: float = 1.0
    shaping: Shaping = field(default_factory=Shaping)
    gpu_memory: float = VLLM_MEMORY
    """The share of a GPU's memory that vLLM uses."""
    engine: str = "auto"
    """Where answers are sampled: "transformers", "vllm", or "auto"; see `generator`."""
    samples_every: int = 5
    """Steps between the steps whose answers are written to `samples.jsonl`."""
    max_kl: float | None = None
    """Mean KL per token above which a step causes a warning."""
    stop_on_kl: bool = False
    """Whether the run stops at such a step."""
    feedback: Feedback | None = None
    """The feedback models, if there are any."""
    principles: Constitution | None = None
    """What a preference model that reads principles judges by; None if there is none."""


class Prompts:
    """The prompts of a run by their numbers: those of the training, then the held-out ones."""

    def __init__(self, data: Data[RLExample]) -> None:
        self.data, self.places = data, [*data.training, *data.held_out]

    def __getitem__(self, number: int) -> RLExample:
        """A prompt."""
        return {**self.data[self.places[number]], "held_out": number >= len(self.data.training)}


@dataclass
class RewardPM:
    """One preference model of the reward, before its weights are loaded."""

    name: str
    folder: Path
    weight: float
    """The factor of its score in the reward."""
    settings: Settings

    @cached_property
    def renderer(self) -> Renderer:
        """Turns conversations into its tokens."""
        return reader(self.folder, self.settings)

    @cached_property
    def context(self) -> int:
        """How many tokens it takes."""
        return models.context_length(self.folder)

    @cached_property
    def reads(self) -> bool:
        """Whether it reads the principle that it judges by."""
        return models.target(self.folder) == TARGET


def weighted(flag: str, entry: str) -> tuple[str, float | None]:
    """The name and the weight of MODEL=WEIGHT; None without one. InputError if it is malformed."""
    name, weight = split_weight(entry)
    if weight is not None and not math.isfinite(weight):
        raise InputError(f"{flag} {entry}: the weight must be a finite number")
    if weight is None and "=" in entry and not Path(entry).exists():
        raise InputError(f"{flag} {entry}: write MODEL or MODEL=WEIGHT, the weight a number")
    return name, weight


def feedback_models(feedback: Feedback | None, settings: Settings) -> list[FeedbackModel]:
    """The feedback models. InputError if one of them cannot be used."""
    if not feedback:
        return []
    feedback.constitution.require("compare" if feedback.how == "compare" else "critique")
    found = []
    for entry in feedback.names:
        name, weight = weighted("--feedback", entry)
        folder = models.resolve(name, weights=not settings.plan and not feedback.urls)
        models.require_language_model(folder)
        found.append(FeedbackModel(name, folder, 1.0 if weight is None else weight, settings, feedback))
    if len(found) > 1 and (feedback.urls or feedback.replicas):
        raise InputError("--feedback-url and --feedback-replicas are for one model; give one --feedback, or neither of them")
    return found


def reward_pms(names: list[str], settings: Settings) -> list[RewardPM]:
    """The preference models, each given as MODEL or MODEL=WEIGHT. InputError if one of them cannot be used."""
    found = []
    for entry in names:
        name, weight = weighted("--pm", entry)
        folder = models.resolve(name, weights=not settings.plan)
        require_preference_model(folder)
        if weight is None and models.target(folder) == "score":
            raise InputError(
                f"--pm {entry}: it predicts ratings (`cai train-pm --target score`), and RL would raise them; "
                f"give the direction: {entry}=-1 if a higher rating is worse, as of harmfulness, or {entry}=1 if it is better"
            )
        weight = 1.0 if weight is None else weight
        found.append(RewardPM(name, folder, weight, settings))
    return found


def generator(engine: str, context: int, gpu_memory: float = VLLM_MEMORY) -> dict[str, Any]:
    """TRL's arguments for sampling answers with vLLM in this process; none to sample with transformers.

    "auto" takes vLLM if it is installed and there is a GPU. `context`: the longest conversation, in tokens. InputError for
    "vllm" without either.
    """
    can = models.device() == "cuda" and find_spec("vllm") is not None
    if engine == "vllm" and not can:
        raise InputError(
            "--engine vllm: RL generates with vLLM only on a GPU and with vllm installed; use --engine transformers here"
        )
    if engine == "transformers" or not can:
        return {}
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": True,
        "vllm_gpu_memory_utilization": gpu_memory,
        "vllm_max_model_length": context,
    }


_OF_TRL = {
    "top_k", "min_p", "repetition_penalty", "generation_kwargs", "cache_implementation", "use_transformers_continuous_batching",
}  # fmt: skip
"""Arguments of TRL for its own generation, which our engine does not have."""


def draws_itself(settings: Settings, given: dict[str, Any]) -> bool:
    """Whether our engine draws the answers where vLLM does not; else TRL does. `given`: the arguments of --trl.

    On a GPU it would hold the weights once more. It cannot copy weights that are sharded or quantised.
    """
    whole = not settings.layout().sharded and not settings.load_in_4bit
    return models.device() == "cpu" and whole and not _OF_TRL & given.keys()


def train(settings: Settings, rollout: Rollout) -> Any:
    """Train the policy `settings.model` on the prompts of `settings.files` into the directory `settings.output`.

    `settings.batch_size` counts prompts; each gets `rollout.num_generations` answers. Returns TRL's trainer; None if it was
    done before.
    """
    if rollout.kl_coef == 0 and rollout.stop_on_kl:
        raise InputError("--stop-on-kl needs the KL, which --kl-coef 0 does not compute; give a small --kl-coef, such as 0.001")
    pms, judges = reward_pms(rollout.pms, settings), feedback_models(rollout.feedback, settings)
    _require_principles(pms, rollout.principles, judged=bool(judges))
    every: list[RewardPM | FeedbackModel] = [*pms, *judges]
    others = [model.folder for model in every]
    made: dict[str, Any] = {"feedback": rollout.feedback.options()} if rollout.feedback else {}
    run: Run[RLExample] = Run(
        settings, _check if judges else prompt_error, _TRAINERS[rollout.algo][1], *others, max_tokens=rollout.max_tokens, **made
    )
    make = _example_maker(run, rollout, pms, judges)
    run.prepare(lambda record: [record], make, RLExample, lambda example: len(example["ids"]))
    generation = generator(rollout.engine, run.longest, rollout.gpu_memory)
    own = not generation and draws_itself(settings, run.trl)
    here = [model for model in every if isinstance(model, RewardPM) or not model.elsewhere]
    dtype = models.exact_dtype(settings.dtype, *(model.folder for model in here))  # of all that are in memory together
    if not run.fit(_load(run, rollout, here, dtype, bool(generation), own)) or not _open(run, rollout, pms, judges, dtype):
        return None

    from datasets import Dataset

    from cai_cli.training import policy, rollouts

    training, held_out, numbered = run.data.training, run.data.held_out, Prompts(run.data)
    steps = settings.steps or math.ceil(settings.epochs * len(training) / settings.per_step())
    drawn = order.passes(len(training), steps * settings.per_step(), settings.seed)
    last = range(len(training), len(training) + len(held_out))
    reward = _reward(run, rollout, pms, judges, numbered)
    trainer = run.build(
        getattr(policy, _TRAINERS[rollout.algo][0]),
        _config(run, rollout, generation, steps),
        Dataset.from_dict({"prompt": [str(number) for number in drawn]}),
        Dataset.from_dict({"prompt": [str(number) for number in last]}) if held_out else None,
        reward_funcs=reward,
        examples=numbered,
        stops=reward.stops,
        sampler=rollouts.Sampler(settings, run.folder) if own else None,
        seed=settings.seed,
        longest=run.data.longest() + rollout.max_tokens,
    )
    reward.ends |= set(trainer.eos_token_ids)
    with ending(judges):
        run.train(trainer, rows=len(training), max_kl=rollout.max_kl, stop_on_kl=rollout.stop_on_kl)
    return trainer


def _require_principles(pms: list[RewardPM], principles: Constitution | None, judged: bool) -> None:
    """InputError if a preference model reads principles and there are none, or if nothing in the reward reads them.

    `judged`: there is a feedback model, which reads them too.
    """
    read = any(pm.reads for pm in pms)
    for pm in pms:
        require_principles(pm.reads, principles is not None and (pm.reads or not (read or judged)), pm.name)
    if principles and read:
        principles.require("compare")


def _check(record: Record) -> str | None:
    """What is wrong with a record, or None."""
    return prompt_error(record) or rubrics.own_error(record)


def _example_maker(
    run: Run[RLExample], rollout: Rollout, pms: list[RewardPM], judges: list[FeedbackModel]
) -> Callable[[Record], RLExample]:
    """A function that makes a record's example: a prompt that leaves room for an answer in every model that reads it."""
    longest = run.longest - rollout.max_tokens
    if min([longest, *(pm.context - rollout.max_tokens for pm in pms)]) < 1:
        raise InputError(f"--max-tokens {rollout.max_tokens} leaves no room for a prompt; lower it, or raise --max-length")

    def make(record: Record) -> RLExample:
        found = rl_prompt(run.renderer, run.format, record, longest)
        for pm in pms:
            format = pm.renderer.format(run.settings.format)
            rules = rollout.principles.principles if rollout.principles and pm.reads else (None,)
            for rule in rules:
                judged = {**record, "prompt": judged_by(found["messages"], rule)} if rule else record
                require_pm_length(pm.renderer, format, judged, pm.context - rollout.max_tokens)
        for judge in judges:
            judge.require_length(found, rollout.max_tokens)
        return found

    return make


def _copies(model: RewardPM | FeedbackModel) -> int:
    """How often a model of the reward is in memory."""
    return model.feedback.replicas or 1 if isinstance(model, FeedbackModel) else 1


def _load(
    run: Run[RLExample], rollout: Rollout, here: Sequence[RewardPM | FeedbackModel], dtype: str, vllm: bool, own: bool
) -> Load:
    """What a process computes at once. The models of the reward that are loaded here stay in memory beside the policy."""
    settings = run.settings
    size = 4 if dtype == "float32" else 2
    return Load(
        settings.batch_size * rollout.num_generations,
        run.data.longest() + rollout.max_tokens,
        reference=rollout.kl_coef > 0 and not settings.lora,
        scorers=sum(size * models.parameters(model.folder) * _copies(model) for model in here),
        sampler=4 * models.parameters(run.folder) if own else 0,  # the weights, and their packed form
        vllm=int(rollout.gpu_memory * models.memory()) if vllm else 0,
        generates=True,
    )


def _open(run: Run[RLExample], rollout: Rollout, pms: list[RewardPM], judges: list[FeedbackModel], dtype: str) -> bool:
    """`Run.open`, with the models of the reward and the rollout's settings in the fingerprint and the manifest."""
    options = {name: value for name, value in vars(rollout).items() if name not in _NOT_IN_FINGERPRINT}
    options |= {"shaping": asdict(rollout.shaping), "pm_dtype": dtype}
    about: dict[str, list[Record]] = {}
    kinds: dict[str, Sequence[RewardPM | FeedbackModel]] = {"pm": pms} | ({"feedback": judges} if judges else {})
    for kind, found in kinds.items():
        hashes = [manifest.hash_model(model.folder) for model in found]
        options[kind] = [[sha, model.weight] for sha, model in zip(hashes, found, strict=True)]
        about[kind] = [
            {"name": model.name, "sha256": sha, "weight": model.weight, "dtype": dtype}
            for sha, model in zip(hashes, found, strict=True)
        ]
    for judge, entry in zip(judges, about.get("feedback", []), strict=True):
        judge.dtype = models.exact_dtype(run.settings.dtype, judge.folder) if judge.elsewhere else dtype
        entry |= judge.served()
    if rollout.principles:
        options["principles"] = {p.id: [p.compare, p.weight] for p in rollout.principles.principles}
    if rollout.feedback:
        options["feedback_how"] = rollout.feedback.options() | {"served": [judge.served() for judge in judges]}
    todo = run.open(**options)
    run.about |= about
    if judged_by_it := rollout.feedback.constitution if rollout.feedback else rollout.principles:
        run.about["constitution"] = judged_by_it.named()
    return todo


def _config(run: Run[RLExample], rollout: Rollout, generation: dict[str, Any], steps: int) -> Any:
    """TRL's configuration of --algo."""
    rows_at_once = run.settings.batch_size * rollout.num_generations
    return run.config(
        warmup=0,
        scheduler="constant",
        max_steps=steps,
        per_device_train_batch_size=rows_at_once,
        per_device_eval_batch_size=rows_at_once,
        **generation,
        num_generations=rollout.num_generations,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        beta=rollout.kl_coef,
        shuffle_dataset=False,  # `order` draws the order of the whole run
        disable_dropout=True,  # so that the KL is 0 while the weights are equal
    )


def _reward(run: Run[RLExample], rollout: Rollout, pms: list[RewardPM], judges: list[FeedbackModel], numbered: Prompts) -> Reward:
    """The reward, with the weights of the preference models loaded."""
    from cai_cli.training.policy import Reward, RewardModel

    format = run.settings.format
    reward_models = []
    for pm in pms:
        model = PreferenceModel(pm.folder, run.fingerprint["pm_dtype"], trust_remote_code=pm.settings.trust_remote_code)
        by = rollout.principles.principles if rollout.principles and pm.reads else ()
        reward_models.append(RewardModel(model, pm.renderer, pm.renderer.format(format), pm.context, pm.weight, pm.name, by))
    stops = () if run.format == "chat" else STOPS
    ends = {*turn_end(run.renderer, run.format)[-1:], run.renderer.tokenizer.eos_token_id}
    for judge in judges:
        judge.group = rollout.num_generations
    log = run.workspace.log("samples.jsonl")
    return Reward(
        [*reward_models, *judges], rollout.shaping, run.renderer, stops, ends, numbered, log, rollout.samples_every,
        rollout.num_generations, run.settings.show_reasoning,
    )  # fmt: skip
