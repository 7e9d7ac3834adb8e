"""Reinforcement learning against a preference model: the last stage (RL-CAI).

    cai rl prompts.jsonl helpful.jsonl -m SFT_MODEL --pm PM -o rl-cai
    cai rl prompts.jsonl -m SFT_MODEL --feedback JUDGE -c default -o rl-cai       the constitution as the reward

Takes any records with a `prompt`. For each prompt the policy (the model in training) writes
--num-generations answers. The preference model scores each conversation. The policy is moved towards the
answers that score above the mean of their prompt. A KL term of weight --kl-coef holds it to the model that
it started from.

Paper, sections 4.1 to 4.3: RL starts from SL-CAI, with the preference model's score as the reward. Red-team
prompts are mixed with helpfulness prompts, so that the model is not trained to evade. Departures from the paper:
- GRPO, with TRL's default loss `dapo`, or RLOO (--algo rloo) in place of PPO. Neither has a value model.
- The KL: with RLOO it is in the reward, summed over the answer, as in the paper. With GRPO it is in the loss,
  per token.
- With --feedback a model judges the answers by the constitution instead of a preference model, or besides it: each answer
  alone, as in `cai grade`, or against the others to its prompt, as in `cai label` (--feedback-how compare).
- The reward may be a weighted sum over several models, and may be capped and shaped: the sum, at
  most --reward-cap, minus --length-penalty per 100 tokens, minus --eos-penalty for an answer without a word
  or cut at --max-tokens.

The learning rate is 1e-6, with --lora 1e-5. Answers are sampled at --temperature 1 throughout. To iterate,
start from an RL model with a new preference model.

DIR holds the model, its tokenizer and template, README.md (the model card), `loss.png`, `trained-ids.txt`,
`skipped.jsonl` if prompts were skipped, and `manifest.json`, which is written last. `samples.jsonl` has
answers with their rewards, every --samples-every steps. `metrics.jsonl` has for each step the loss, reward,
reward_std, score, kl (mean per token), entropy, length, and the shares of answers that are unfinished, empty,
refusals, or boilerplate (they begin or end like an answer to another prompt). `no_signal` is the share of
prompts whose answers all have the same reward, which train nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated

from typer import Option

from cai_cli.commands._command import command
from cai_cli.commands._flags import AnswerPrompting, LocalEngine, Principles, per_item
from cai_cli.commands._judging import FewShot
from cai_cli.commands._training import GradAccum, Run, learning_rate, planning, settings
from cai_cli.errors import InputError

if TYPE_CHECKING:
    from cai_cli.method.constitution import Constitution
    from cai_cli.training.feedback import Feedback
    from cai_cli.training.shaping import Shaping

RATE = 1e-6
GPUShare = Annotated[
    float, Option("--gpu-memory", min=0.05, max=0.95, help="Share of the GPU's memory that vLLM uses while it generates.")
]


class How(str, Enum):
    """--feedback-how."""

    grade = "grade"
    compare = "compare"


class Algo(str, Enum):
    """--algo."""

    grpo = "grpo"
    rloo = "rloo"


@dataclass
class Rewards:
    """What the reward is made of."""

    pm: Annotated[
        list[str] | None,
        Option("--pm", metavar="PM=WEIGHT", help="A preference model (of `cai train-pm`), =WEIGHT if not 1; repeatable."),
    ] = None
    feedback: Annotated[
        list[str] | None,
        Option(
            "--feedback", metavar="MODEL=WEIGHT", help="A model that judges the answers by the constitution, =WEIGHT; repeatable."
        ),
    ] = None
    feedback_how: Annotated[
        How, Option("--feedback-how", help="grade: each answer alone. compare: the answers to a prompt with one another.")
    ] = How.grade
    feedback_url: Annotated[
        list[str] | None,
        Option("--feedback-url", metavar="URL", help="An OpenAI-compatible server that runs the --feedback model; repeatable."),
    ] = None
    feedback_replicas: Annotated[
        int,
        Option(
            "--feedback-replicas",
            min=0,
            metavar="N",
            help="Run the --feedback model in N processes beside the training process, each on a GPU of its own; 0: inside it.",
        ),
    ] = 0
    principles_per_prompt: Annotated[
        str,
        Option("--principles-per-prompt", metavar="K|all", help="Judge by K principles drawn for a prompt and step, or all."),
    ] = "1"
    few_shot: FewShot = None
    reward_cap: Annotated[float | None, Option("--reward-cap", help="A score above X counts as X.", metavar="X")] = None
    length_penalty: Annotated[
        float, Option("--length-penalty", help="Subtracted from the reward per 100 tokens.", metavar="X")
    ] = 0.0
    eos_penalty: Annotated[
        float, Option("--eos-penalty", help="Subtracted if the answer is empty or cut at --max-tokens.", metavar="X")
    ] = 0.0

    def shaping(self) -> Shaping:
        """How a score becomes a reward."""
        from cai_cli.training.shaping import Shaping

        return Shaping(self.reward_cap, self.length_penalty, self.eos_penalty)

    def judges(self, found: Constitution | None) -> Feedback | None:
        """The feedback models, which judge by the constitution `found`. InputError if there is no reward at all."""
        from cai_cli.training.feedback import Feedback

        if not self.pm and not self.feedback:
            raise InputError("give a reward: --pm PM, or --feedback MODEL")
        if not self.feedback and (
            self.feedback_url or self.feedback_replicas or self.few_shot is not None or self.principles_per_prompt != "1"
        ):
            raise InputError(
                "--feedback-url, --feedback-replicas, --principles-per-prompt and --few-shot are for --feedback; give that too"
            )
        if self.feedback_how is How.grade and self.few_shot is not None:
            raise InputError("--few-shot shows examples of comparisons: it needs --feedback-how compare")
        if self.feedback_url and self.feedback_replicas:
            raise InputError("--feedback-url or --feedback-replicas: give one of them")
        if not self.feedback or not found:
            return None
        count = per_item("--principles-per-prompt", self.principles_per_prompt, found)
        return Feedback(
            self.feedback, found, self.feedback_how.value, count, self.few_shot, self.feedback_url or [], self.feedback_replicas
        )


def replica_gpus(run: Run, count: int) -> list[str]:
    """The GPUs of --feedback-replicas: those after the first one, which is trained on. Empty without GPUs, and for a plan.

    InputError if there are too few, or several training processes.
    """
    from cai_cli.engines import models
    from cai_cli.training import ranks

    if run.accelerate or (run.num_processes or ranks.world_size()) > 1:
        raise InputError(
            f"--feedback-replicas {count}: is for one training process; with several, each has the model inside, "
            "or give servers (--feedback-url)"
        )
    run.num_processes = 1
    if planning.get() or not ranks.visible_gpus():
        return []
    found = models.gpus()[1 : 1 + count]
    if len(found) < count:
        raise InputError(f"--feedback-replicas {count}: takes as many GPUs besides the one to train on; there are {len(found)}")
    return found


@command(
    "Train a model by reinforcement learning, with a preference model's score or a model's feedback as the reward (RL-CAI).",
    "cai rl prompts.jsonl -m runs/sl-cai --pm runs/pm -o runs/rl-cai --steps 100\n"
    "cai rl prompts.jsonl -m runs/sl-cai --feedback JUDGE -c default -o runs/rl-cai --steps 100",
)
def app(
    run: Run,
    prompting: AnswerPrompting,
    principles: Principles,
    rewards: Rewards,
    algo: Annotated[
        Algo, Option("--algo", help="grpo: the KL is in the loss, per token. rloo: it is in the reward, per answer.")
    ] = Algo.grpo,
    kl_coef: Annotated[float, Option("--kl-coef", min=0.0, help="Weight of the KL to the starting model; 0 disables it.")] = 0.1,
    max_kl: Annotated[
        float, Option("--max-kl", min=0.0, help="Warns at a step whose mean KL per token exceeds it; --stop-on-kl stops there.")
    ] = 0.5,
    stop_on_kl: Annotated[
        bool, Option("--stop-on-kl", help="Stops at a step whose KL exceeds --max-kl, and saves the model.")
    ] = False,
    num_generations: Annotated[int, Option("--num-generations", min=2, help="Answers per prompt.")] = 8,
    max_tokens: Annotated[int, Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = 1024,
    temperature: Annotated[float, Option("--temperature", min=0.01, help="Sampling temperature of the answers.")] = 1.0,
    samples_every: Annotated[
        int, Option("--samples-every", min=1, metavar="N", help="Steps between samples in samples.jsonl.")
    ] = 5,
    engine: Annotated[
        LocalEngine, Option("--engine", help="auto: vllm if it is installed and there is a GPU, else transformers.")
    ] = LocalEngine.auto,
    gpu_memory: GPUShare = 0.3,
    lr: Annotated[float | None, learning_rate(RATE)] = None,
    batch_size: Annotated[
        int, Option("--batch-size", min=1, help="Prompts that each process takes at once, each with --num-generations answers.")
    ] = 2,
    grad_accum: GradAccum = 8,
) -> None:
    """Train."""
    from cai_cli.training import rl

    given = principles.load() if rewards.feedback or principles != Principles() else None
    judges = rewards.judges(given)
    read = given if principles != Principles() else None  # a preference model reads only what is asked for
    if judges and judges.replicas:
        judges = replace(judges, gpus=replica_gpus(run, judges.replicas))
    options = settings("rl", run, prompting, lr, RATE, batch_size=batch_size, grad_accum=grad_accum)
    rollout = rl.Rollout(
        rewards.pm or [], algo.value, kl_coef, num_generations, max_tokens, temperature, rewards.shaping(), gpu_memory,
        engine.value, samples_every, max_kl, stop_on_kl, judges, read,
    )  # fmt: skip
    rl.train(options, rollout)
