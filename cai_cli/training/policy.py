"""TRL's GRPOTrainer on prompts that are tokens already, and the reward that scores what it generates."""

from __future__ import annotations

from typing import Any

import torch
from trl import GRPOTrainer

from cai_cli import models, prompts
from cai_cli.engines.preference import PreferenceModel
from cai_cli.jsonl import Record
from cai_cli.tokens import Renderer
from cai_cli.training.common import StepLog

SAMPLE_EVERY = 5
"""Steps between those whose samples are written down."""


class TokenPolicy(GRPOTrainer):
    """GRPO whose `prompt` column holds a row's number, and whose prompts are the tokens of `examples[number]`.

    GRPOTrainer takes text or messages only and tokenises them with their control tokens live; a
    number in place of the text lets our own tokens through its one tokenisation step.
    """

    def __init__(self, *args: Any, examples: list[Record], stops: tuple[str, ...], **more: Any) -> None:
        super().__init__(*args, **more)
        self.examples, self.stops = examples, stops

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.examples[int(number)]["ids"] for number in prompts], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **more: Any) -> tuple[list[list[int]], Any]:
        # one autocast region around all the passes: each weight is cast once, not once a token
        with torch.autocast(models.device(), torch.bfloat16, enabled=self.args.bf16):
            completions, logprobs = super()._generate_single_turn(prompt_ids, *args, **more)
        return [self._cut(ids) for ids in completions], logprobs

    def _cut(self, ids: list[int]) -> list[int]:
        """Tokens up to the first that completes a stop string (plain transcripts only)."""
        if not self.stops:
            return ids

        def stopped(n: int) -> bool:
            text = str(self._tokenizer.decode(ids[:n]))
            return any(stop in text for stop in self.stops)

        return next((ids[:n] for n in range(1, len(ids)) if stopped(n)), ids) if stopped(len(ids)) else ids


class Reward:
    """The preference model's raw score of each conversation; also keeps the log of samples.

    A conversation that outgrows the preference model has no score, and so no part in the step.
    """

    __name__ = "pm"  # how TRL calls the reward in its own logs

    def __init__(
        self,
        pm: PreferenceModel,
        judge: Renderer,
        format: str,
        context: int,
        policy: Renderer,
        stops: tuple[str, ...],
        examples: list[Record],
        log: StepLog,
    ) -> None:
        self.pm, self.judge, self.format, self.context = pm, judge, format, context
        self.policy, self.stops, self.examples, self.log = policy, stops, examples, log

    def text(self, ids: list[int]) -> str:
        """A completion as `cai sample` would write it."""
        text = str(self.policy.tokenizer.decode(ids, skip_special_tokens=True))
        return text[: min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=len(text))].strip()

    def __call__(self, prompts: list[str], completion_ids: list[list[int]], trainer_state: Any, **_: Any) -> list[float | None]:
        """Scores in the completions' order. TRL calls it with the prompts' numbers."""
        examples = [self.examples[int(number)] for number in prompts]
        texts = [self.text(ids) for ids in completion_ids]
        rows = [
            self.judge.judgement(judged(example, text, self.format)).ids for example, text in zip(examples, texts, strict=True)
        ]
        fit = [i for i, row in enumerate(rows) if len(row) <= self.context]
        rewards: list[float | None] = [None] * len(rows)
        for i, score in zip(fit, self.pm.score_ids([rows[i] for i in fit]), strict=True):
            rewards[i] = score
        step = trainer_state.global_step + 1
        if step % SAMPLE_EVERY == 0 or step == 1 or step == trainer_state.max_steps:
            self.log.write(
                [
                    {"step": step, "id": example["id"], "prompt": example["messages"], "response": text, "reward": reward}
                    for example, text, reward in zip(examples, texts, rewards, strict=True)
                ]
            )
        return rewards


def judged(example: Record, text: str, format: str) -> prompts.Prompt:
    """The conversation that the preference model reads."""
    return prompts.judged(example["messages"], text, format)
