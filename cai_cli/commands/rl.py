"""Reinforcement learning against a preference model: the last stage (RL-CAI).

    cai rl prompts.jsonl helpful.jsonl -m SFT_MODEL --pm PM -o rl-cai

Takes any records with a `prompt`. For each prompt the policy writes --generations answers, the
preference model scores each conversation, and the policy moves towards what scores above its
prompt's mean, held to the model that it started from by a KL term of weight --kl. Paper, sections
4.1 and 4.3: red-team and helpfulness prompts are mixed, so that the model doesn't learn to evade.
Departures: GRPO (--algo rloo: RLOO) in place of PPO, with no value model; answers are drawn at
--temperature 1 throughout. The learning rate is 1e-6, with --lora 1e-5.

The reward is the weighted sum of the --pm models' scores, at most --reward-cap, less --length-penalty
for every 100 tokens, less --unfinished-penalty for an answer without a word or cut at --max-tokens.
To iterate, start from an RL model with a new PM.

DIR holds the model, its tokenizer and template, README.md (the model card), `metrics.jsonl` (a step's
loss, reward and reward_std, score, kl (mean of a token), entropy, length, share of unfinished, refusals,
and boilerplate: answers that begin or end as one to another prompt does), `loss.png`, `samples.jsonl`
(answers with their rewards, every --samples-every steps), `trained-ids.txt`, `rejected.jsonl` where
prompts were set aside, and `manifest.json`, written last.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from typer import Option

from cai_cli.commands.options import EngineName, command
from cai_cli.commands.training import GradAccum, LearningRate, Run, settings


class Algo(str, Enum):
    """--algo."""

    grpo = "grpo"
    rloo = "rloo"


@command(
    "Reinforcement learning, a preference model's score as the reward (RL-CAI).",
    "cai rl prompts.jsonl -m runs/sl-cai --pm runs/pm -o runs/rl-cai --steps 100",
)
def app(
    run: Run,
    pm: Annotated[
        list[str], Option("--pm", metavar="PM=WEIGHT", help="A preference model (`cai train-pm` makes one); repeatable.")
    ],
    algo: Annotated[
        Algo, Option("--algo", help="grpo: KL in the loss. rloo: KL, summed over an answer, in the reward.")
    ] = Algo.grpo,
    kl: Annotated[float, Option("--kl", min=0.0, help="Weight of the KL term to the starting model; 0 lets it go.")] = 0.1,
    max_kl: Annotated[float, Option("--max-kl", min=0.0, help="Warn of a step whose mean KL a token is above it.")] = 0.5,
    stop_on_kl: Annotated[bool, Option("--stop-on-kl", help="Stop there, and save the model.")] = False,
    generations: Annotated[int, Option("--generations", min=2, help="Answers to each prompt.")] = 4,
    max_tokens: Annotated[int, Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, Option("--temperature", min=0.01, help="How freely answers are drawn.")] = 1.0,
    reward_cap: Annotated[float | None, Option("--reward-cap", help="No score counts above it.", metavar="X")] = None,
    length_penalty: Annotated[float, Option("--length-penalty", help="Taken off for every 100 tokens.", metavar="X")] = 0.0,
    unfinished_penalty: Annotated[
        float, Option("--unfinished-penalty", help="Taken off an empty answer, or one cut at --max-tokens.", metavar="X")
    ] = 0.0,
    samples_every: Annotated[int, Option("--samples-every", min=1, metavar="N", help="Steps between samples written down.")] = 5,
    engine: Annotated[
        EngineName, Option("--engine", help="Where answers are drawn. auto: vllm on a GPU that has it, else transformers.")
    ] = EngineName.auto,
    lr: LearningRate = None,
    batch_size: Annotated[
        int, Option("--batch-size", min=1, help="Prompts a batch, each with --generations answers, by each process.")
    ] = 4,
    grad_accum: GradAccum = 1,
) -> None:
    """Train."""
    from cai_cli.training import rl
    from cai_cli.training.shaping import Shaping

    options = settings("rl", run, lr, 1e-6, batch_size=batch_size, grad_accum=grad_accum)
    rollout = rl.Rollout(
        pm, algo.value, kl, generations, max_tokens, temperature, Shaping(reward_cap, length_penalty, unfinished_penalty),
        engine.value, samples_every, max_kl, stop_on_kl,
    )  # fmt: skip
    rl.train(options, rollout)
