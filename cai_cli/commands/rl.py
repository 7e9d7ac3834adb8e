"""Reinforcement learning against a preference model: the last stage (RL-CAI).

    cai rl prompts.jsonl helpful.jsonl -m SFT_MODEL --pm PM -o rl-cai

Takes any records with a `prompt`. For each prompt the policy writes --generations answers, the
preference model scores each conversation, and the policy moves towards what scores above its
prompt's mean, held to the model that it started from by a KL term of weight --kl. Paper, sections
4.1 and 4.3: red-team and helpfulness prompts are mixed, so that the model doesn't learn to evade.
Departures: GRPO in place of PPO (no value model; scores are compared within a prompt's answers),
and answers drawn by transformers at --temperature 1 throughout.

DIR holds the model, its tokenizer and template, `metrics.jsonl` (loss, reward, reward_std, kl, length
a step), `samples.jsonl` (answers with their rewards, every fifth step), `trained-ids.txt`,
`rejected.jsonl` where prompts were set aside, and `manifest.json`, written last.
"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from cai_cli.commands.options import command
from cai_cli.commands.training import GradAccum, LearningRate, Run, settings


@command(
    "Reinforcement learning by GRPO, a preference model's score as the reward (RL-CAI).",
    "cai rl prompts.jsonl -m runs/sl-cai --pm runs/pm -o runs/rl-cai --steps 100",
)
def app(
    run: Run,
    pm: Annotated[str, Option("--pm", help="The preference model, a directory made by `cai train-pm`.")],
    kl: Annotated[float, Option("--kl", min=0.0, help="Weight of the KL term to the starting model; 0 lets it go.")] = 0.1,
    generations: Annotated[int, Option("--generations", min=2, help="Answers to each prompt.")] = 4,
    max_tokens: Annotated[int, Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, Option("--temperature", min=0.01, help="How freely answers are drawn.")] = 1.0,
    lr: LearningRate = 1e-6,
    batch_size: Annotated[int, Option("--batch-size", min=1, help="Prompts a batch, each with --generations answers.")] = 4,
    grad_accum: GradAccum = 1,
) -> None:
    """Train."""
    from cai_cli.training import rl

    options = settings("rl", run, lr=lr, batch_size=batch_size, grad_accum=grad_accum)
    rl.train(options, rl.Rollout(pm, kl, generations, max_tokens, temperature))
