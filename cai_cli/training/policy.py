"""TRL's online trainers on prompts that are tokens already, and the reward that scores what they generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from trl import GRPOTrainer, RLOOTrainer

from cai_cli import models, prompts
from cai_cli.engines.preference import PreferenceModel
from cai_cli.jsonl import Record
from cai_cli.tokens import Renderer
from cai_cli.training import ranks
from cai_cli.training.shaping import Shaping, boilerplate, is_empty, is_refusal
from cai_cli.training.workspace import StepLog


class TokenPrompts:
    """For a trainer whose `prompt` column holds a row's number, and whose prompts are the tokens of `examples[number]`.

    TRL takes text or messages only and tokenises them with their control tokens live; a number in place of the text lets our
    own tokens through its one tokenisation step.
    """

    args: Any
    _tokenizer: Any

    def __init__(self, *args: Any, examples: list[Record], stops: tuple[str, ...], **more: Any) -> None:
        super().__init__(*args, **more)
        self.examples, self.stops = examples, stops

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.examples[int(number)]["ids"] for number in prompts], None, {}

    def _generate_single_turn(self, *args: Any, **more: Any) -> Any:
        """TRL's generation, each answer cut at its first stop string. GRPO's has the tokens' log probabilities too."""
        # one autocast region around all the passes: each weight is cast once, not once a token
        with torch.autocast(models.device(), torch.bfloat16, enabled=self.args.bf16):
            found = super()._generate_single_turn(*args, **more)  # type: ignore[misc]
        if not isinstance(found, tuple):
            return [self._cut(ids) for ids in found]
        answers, logprobs = [self._cut(ids) for ids in found[0]], found[1]
        if logprobs is not None:
            logprobs = [values[: len(ids)] for values, ids in zip(logprobs, answers, strict=True)]
        return answers, logprobs

    def _cut(self, ids: list[int]) -> list[int]:
        """Tokens up to the first that completes a stop string (plain transcripts only)."""
        if not self.stops:
            return ids

        def stopped(n: int) -> bool:
            text = str(self._tokenizer.decode(ids[:n]))
            return any(stop in text for stop in self.stops)

        return next((ids[:n] for n in range(1, len(ids)) if stopped(n)), ids) if stopped(len(ids)) else ids


class GRPO(TokenPrompts, GRPOTrainer):
    """Advantages are an answer's reward less its prompt's mean, over their spread (Shao et al. 2024); the KL is in the loss."""


class RLOO(TokenPrompts, RLOOTrainer):
    """Advantages are an answer's reward less the mean of its prompt's others (Ahmadian et al. 2024); the KL is in the reward."""


@dataclass
class Judge:
    """One preference model of the reward: what it reads a conversation with, and what its score counts."""

    model: PreferenceModel
    renderer: Renderer
    format: str
    context: int
    weight: float

    def scores(self, examples: list[Record], texts: list[str]) -> list[float | None]:
        """Its raw scores; None for a conversation that outgrows it."""
        rows = [
            self.renderer.judgement(prompts.judged(example["messages"], text, self.format)).ids
            for example, text in zip(examples, texts, strict=True)
        ]
        fit = [i for i, row in enumerate(rows) if len(row) <= self.context]
        found: list[float | None] = [None] * len(rows)
        for i, score in zip(fit, self.model.score_ids([rows[i] for i in fit]), strict=True):
            found[i] = score
        return found


@dataclass
class Reward:
    """The weighted sum of the preference models' scores, shaped; also measures the answers, and keeps the log of samples.

    An answer without a score of every model has no reward, and so no part in the step.
    """

    judges: list[Judge]
    shaping: Shaping
    policy: Renderer
    stops: tuple[str, ...]
    ends: set[int]
    examples: list[Record]
    log: StepLog
    every: int

    __name__ = "pm"  # how TRL calls the reward in its own logs

    def text(self, ids: list[int]) -> str:
        """A completion as `cai sample` would write it."""
        text = str(self.policy.tokenizer.decode(ids, skip_special_tokens=True))
        return text[: min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=len(text))].strip()

    def finished(self, ids: list[int]) -> bool:
        """Whether an answer came to its end, and not only to --max-tokens."""
        if ids and ids[-1] in self.ends:
            return True
        text = str(self.policy.tokenizer.decode(ids)) if self.stops else ""
        return any(stop in text for stop in self.stops)

    def __call__(
        self, prompts: list[str], completion_ids: list[list[int]], trainer_state: Any, log_metric: Any, **_: Any
    ) -> list[float | None]:
        """Rewards in the completions' order. TRL calls it with the prompts' numbers."""
        examples = [self.examples[int(number)] for number in prompts]
        texts = [self.text(ids) for ids in completion_ids]
        by_judge = [judge.scores(examples, texts) for judge in self.judges]
        records: list[Any] = []
        for i, (example, text, ids) in enumerate(zip(examples, texts, completion_ids, strict=True)):
            found = [scores[i] for scores in by_judge]
            whole = [score for score in found if score is not None]
            score = sum(s * j.weight for s, j in zip(whole, self.judges, strict=True)) if len(whole) == len(found) else None
            finished = self.finished(ids)
            reward = None if score is None else self.shaping.reward(score, text, len(ids), finished)
            record = {"id": example["id"], "prompt": example["messages"], "response": text, "reward": reward, "score": score}
            records.append(record | ({"scores": found} if len(found) > 1 else {}) | {"tokens": len(ids), "finished": finished})
        scored = [record["score"] for record in records if record["score"] is not None]
        if scored:
            log_metric("score", sum(scored) / len(scored))
        log_metric("refusals", sum(map(is_refusal, texts)) / len(texts))
        log_metric("unfinished", sum(not record["finished"] for record in records) / len(records))
        log_metric("empty", sum(map(is_empty, texts)) / len(texts))
        log_metric("boilerplate", boilerplate(prompts, texts))
        self._write(trainer_state, prompts, records)
        return [record["reward"] for record in records]

    def _write(self, state: Any, prompts: list[str], records: list[object]) -> None:
        step = state.global_step + 1
        held_out = self.examples[int(prompts[0])].get("held_out", False)
        if held_out or not (step % self.every == 0 or step == 1 or step == state.max_steps):
            return
        everyone: list[Any] = ranks.gather(records)
        self.log.write([{"step": step, **record} for record in everyone])
