"""TRL's online trainers on prompts that are already tokens, and the reward for the answers that they generate (section 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from transformers import TrainerState
from trl import GRPOTrainer, RLOOTrainer

from cai_cli.data import reasoning
from cai_cli.data.records import Messages
from cai_cli.engines import models
from cai_cli.engines.base import Completion, Request
from cai_cli.engines.joined import can_group
from cai_cli.engines.scorer import PreferenceModel
from cai_cli.method import prompts
from cai_cli.method.constitution import Principle
from cai_cli.method.tokens import Renderer
from cai_cli.pipeline.seeds import draw
from cai_cli.training import groups, ranks
from cai_cli.training.examples import RLExample
from cai_cli.training.feedback import FeedbackModel, Scored
from cai_cli.training.rollouts import Sampler
from cai_cli.training.shaping import Shaping, boilerplate, is_empty, is_refusal
from cai_cli.training.workspace import StepLog


class Numbered(Protocol):
    """Prompts by their numbers."""

    def __getitem__(self, number: int, /) -> RLExample:
        """A prompt."""


class TokenPrompts:
    """A mix-in for a trainer whose `prompt` column holds numbers: the prompt of number n is the tokens of `examples[n]`.

    TRL accepts only text or messages, and tokenises control tokens that they spell as such. With a number instead of the
    text, our own tokens pass through its only tokenisation step.
    """

    args: Any
    model: Any
    state: Any
    accelerator: Any
    eos_token_ids: list[int]
    max_completion_length: Any
    temperature: float
    top_p: float
    _tokenizer: Any
    joins: bool | None = None
    """Whether the answers of a prompt are one row; None before it was tried."""

    def __init__(
        self,
        *args: Any,
        examples: Numbered,
        stops: tuple[str, ...],
        sampler: Sampler | None,
        seed: int,
        longest: int,
        **more: Any,
    ) -> None:
        """`sampler`: draws the answers; None leaves it to TRL. `seed`: decides the draws. `longest`: tokens of a conversation."""
        super().__init__(*args, **more)
        self.longest = longest
        self.examples, self.stops, self.sampler, self.draws = examples, stops, sampler, (seed, "rollout")
        self._loaded = -1  # the step whose weights the sampler has
        if sampler:
            sampler.engine.end_tokens = set(self.eos_token_ids)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        self._asked = [self.examples[int(number)] for number in prompts]
        return [example["ids"] for example in self._asked], None, {}

    def _generate_single_turn(self, *args: Any, **more: Any) -> Any:
        """The answers' tokens, and for GRPO their log probabilities, if they are known."""
        return self._by_trl(*args, **more) if self.sampler is None else self._by_sampler(self.sampler)

    def _by_sampler(self, sampler: Sampler) -> Any:
        step = self.state.global_step
        if self._loaded != step:
            sampler.load(self.accelerator.unwrap_model(self.model))
            self._loaded = step
        place = (*self.draws, step, self.accelerator.process_index)
        requests = [
            Request(
                "generate", example["ids"], example["text"], draw(*place, i, example["id"]), self.max_completion_length,
                self.temperature, self.top_p, self.stops,
            )
            for i, example in enumerate(self._asked)
        ]  # fmt: skip
        answers = sampler.draw(requests)
        return (answers, None) if isinstance(self, GRPOTrainer) else answers

    def _by_trl(self, *args: Any, **more: Any) -> Any:
        """TRL's generation, with each answer cut at its first stop string."""
        # one autocast region around all passes casts each weight once, not once per token
        with torch.autocast(models.device(), torch.bfloat16, enabled=self.args.bf16):
            found = super()._generate_single_turn(*args, **more)  # type: ignore[misc]
        if not isinstance(found, tuple):
            return [self._cut(ids) for ids in found]
        answers, logprobs = [self._cut(ids) for ids in found[0]], found[1]
        if logprobs is not None:
            logprobs = [values[: len(ids)] for values, ids in zip(logprobs, answers, strict=True)]
        return answers, logprobs

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **more: Any,
    ) -> Any:
        """(log probabilities, entropies, loss of routing), the first two [answers, tokens]. Called by TRL."""
        size = batch_size or len(input_ids)
        found = [
            self._log_probabilities(model, ids, mask, logits_to_keep, compute_entropy, compute_aux_loss, **more)
            for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True)
        ]
        values, entropies, losses = zip(*found, strict=True)
        return (
            torch.cat(values),
            torch.cat(entropies) if compute_entropy else None,
            torch.stack(losses).mean() if compute_aux_loss else None,
        )

    def _log_probabilities(
        self, model: Any, ids: torch.Tensor, mask: torch.Tensor, kept: int, entropy: bool, routing: bool, **more: Any
    ) -> Any:
        """The same for what is computed at once; if it pays and the model can, with the answers of a prompt in one row."""
        rows = groups.Rows.of(ids, mask, kept) if self.joins is not False and not routing else None
        if rows and self.joins is None:
            self.joins = can_group(self.accelerator.unwrap_model(self.model), rows.texts, rows.groups, self.longest)
        if not rows or not self.joins:
            parent: Any = super()
            return parent._get_per_token_logps_and_entropies(model, ids, mask, kept, None, entropy, routing, **more)
        with self.accelerator.autocast():
            return (*groups.log_probabilities(model, self.accelerator.unwrap_model(model), rows, kept), None)

    def _cut(self, ids: list[int]) -> list[int]:
        """The tokens up to the first that completes a stop string; only plain transcripts have stop strings."""
        if not self.stops:
            return ids

        def stopped(n: int) -> bool:
            text = str(self._tokenizer.decode(ids[:n]))
            return any(stop in text for stop in self.stops)

        return next((ids[:n] for n in range(1, len(ids)) if stopped(n)), ids) if stopped(len(ids)) else ids


class GRPO(TokenPrompts, GRPOTrainer):
    """Advantage: an answer's reward minus its prompt's mean, over their spread (Shao et al. 2024). The KL is in the loss."""


class RLOO(TokenPrompts, RLOOTrainer):
    """Advantage: an answer's reward minus the mean of its prompt's others (Ahmadian et al. 2024). The KL is in the reward."""


@dataclass
class RewardModel:
    """One preference model of the reward."""

    model: PreferenceModel
    renderer: Renderer
    """Turns conversations into its tokens."""
    format: str
    """The prompt format that it reads, "chat" or "hh"."""
    context: int
    """How many tokens it takes."""
    weight: float
    """The factor of its score in the reward."""
    name: str
    """As --pm gives it."""
    principles: tuple[Principle, ...] = ()
    """Those that it reads, if it reads any; its score is the mean over them, by their weights."""

    def scores(self, examples: list[RLExample], texts: list[str], step: int) -> list[Scored | None]:
        """Its raw scores of the answers `texts`, at any step; None for a conversation that exceeds its context."""
        asked = [(i, principle) for i in range(len(texts)) for principle in self.principles or (None,)]
        rows = [self._ids(examples[i]["messages"], texts[i], principle) for i, principle in asked]
        fit = [n for n, row in enumerate(rows) if len(row) <= self.context]
        each = dict(zip(fit, self.model.score_ids([rows[n] for n in fit]), strict=True))
        found: list[Scored | None] = []
        for i in range(len(texts)):
            mine = [(principle, each.get(n)) for n, (answer, principle) in enumerate(asked) if answer == i]
            found.append(_mean(mine))
        return found

    def _ids(self, messages: Messages, text: str, principle: Principle | None) -> list[int]:
        """A conversation in its tokens."""
        judged = prompts.judged_by(messages, principle) if principle else messages
        return self.renderer.score_request(prompts.pm_input(judged, text, self.format)).ids


def _mean(scores: list[tuple[Principle | None, float | None]]) -> Scored | None:
    """One score of those by each principle, by their weights; None if one is missing."""
    values = [(principle, score) for principle, score in scores if score is not None]
    if len(values) < len(scores):
        return None
    total = sum(principle.weight if principle else 1.0 for principle, _ in values)
    mean = sum((principle.weight if principle else 1.0) * score for principle, score in values) / total
    return Scored(mean, {principle.id: score for principle, score in values if principle})


class Sample(TypedDict, total=False):
    """One answer. A line of `samples.jsonl` adds `step`, an `id` of its own, and that of the prompt as `source_id`."""

    id: str
    """The prompt's."""
    prompt: Messages
    response: str
    reasoning: str
    """What the policy wrote before its answer, if it reasoned."""
    reward: float | None
    """The shaped score; None if a preference model gave no score."""
    score: float | None
    """The weighted sum of the preference models' scores."""
    scores: list[float | None]
    """Each model's score, if there are several."""
    principles: dict[str, float]
    """The scores by each principle, under its id; under MODEL/ID if several models read principles."""
    tokens: int
    finished: bool
    """Whether it ended before --max-tokens."""


def no_signal(rewards: list[float | None], group: int) -> float:
    """The share of prompts whose answers, `group` in a row, all have the same reward or none: they have no advantage."""
    groups = [{*rewards[i : i + group]} - {None} for i in range(0, len(rewards), group)]
    return sum(len(found) < 2 for found in groups) / len(groups)


@dataclass
class Reward:
    """The weighted sum of the models' scores, shaped (paper, section 4.1). Also measures and logs the answers.

    An answer that some model gave no score has no reward and no part in the step.
    """

    models: list[RewardModel | FeedbackModel]
    shaping: Shaping
    policy: Renderer
    """Turns the policy's tokens into text."""
    stops: tuple[str, ...]
    """Strings that end an answer (plain transcripts only)."""
    ends: set[int]
    """Tokens that end an answer."""
    examples: Numbered
    """The prompts by their numbers: those of the training, then the held-out ones."""
    log: StepLog
    """`samples.jsonl`."""
    every: int
    """Steps between the steps whose answers are logged."""
    num_generations: int
    """Answers per prompt. They come one after the other."""
    show_reasoning: bool = False
    """Whether the preference models see the answers' reasoning."""

    __name__ = "pm"  # the reward's name in TRL's logs

    def answer(self, example: RLExample, ids: list[int]) -> Completion:
        """An answer as `cai sample` would write it. Its text is empty if it ended inside its reasoning."""
        text = str(self.policy.tokenizer.decode(ids, skip_special_tokens=True))
        text = text[: min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=len(text))].strip()
        request = Request("generate", example["ids"], example["text"], stop=self.stops)
        return self.policy.separate(request, Completion(text, "stop", 0, len(request.ids), len(ids), tokens=ids))

    def finished(self, ids: list[int]) -> bool:
        """Whether an answer ended before --max-tokens."""
        if ids and ids[-1] in self.ends:
            return True
        text = str(self.policy.tokenizer.decode(ids)) if self.stops else ""
        return any(stop in text for stop in self.stops)

    def __call__(
        self,
        prompts: list[str],
        completion_ids: list[list[int]],
        trainer_state: TrainerState,
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        """The reward of each answer, in the answers' order. TRL calls this; its `prompts` are the prompts' numbers."""
        examples = [self.examples[int(number)] for number in prompts]
        answers = [self.answer(*each) for each in zip(examples, completion_ids, strict=True)]
        texts = [answer.text for answer in answers]
        read = [reasoning.join(answer.text, answer.reasoning) for answer in answers] if self.show_reasoning else texts
        step = 0 if examples[0].get("held_out") else trainer_state.global_step + 1
        by_model = [model.scores(examples, read, step) for model in self.models]
        samples: list[Sample] = []
        for i, (example, text, ids) in enumerate(zip(examples, texts, completion_ids, strict=True)):
            scored = [scores[i] for scores in by_model]
            found = [each.value if each else None for each in scored]
            whole = [score for score in found if score is not None]
            score = sum(s * m.weight for s, m in zip(whole, self.models, strict=True)) if len(whole) == len(found) else None
            finished = self.finished(ids)
            reward = None if score is None else self.shaping.reward(score, text, len(ids), finished)
            sample: Sample = {
                "id": example["id"],
                "prompt": example["messages"],
                "response": text,
                "reward": reward,
                "score": score,
            }
            if reason := answers[i].reasoning:
                sample["reasoning"] = reason
            if len(found) > 1:
                sample["scores"] = found
            by_principle = {model.name: each.by_principle for each, model in zip(scored, self.models, strict=True) if each}
            several = sum(map(bool, by_principle.values())) > 1
            if principles := {
                f"{Path(model).name}/{name}" if several else name: value
                for model, each in by_principle.items()
                for name, value in each.items()
            }:
                sample["principles"] = principles
            sample["tokens"], sample["finished"] = len(ids), finished
            samples.append(sample)
        self._measure(samples, prompts, texts, log_metric)
        self._log(trainer_state, prompts, samples)
        return [sample["reward"] for sample in samples]

    def _measure(
        self, samples: list[Sample], prompts: list[str], texts: list[str], log_metric: Callable[[str, float], None]
    ) -> None:
        """Log means over the answers. That of a principle is over those that it judged."""
        values = {"score": [sample["score"] for sample in samples if sample["score"] is not None]}
        for sample in samples:
            for name, value in sample.get("principles", {}).items():
                values.setdefault(f"principle/{name}", []).append(value)
        for name, found in values.items():
            if found:
                log_metric(name, sum(found) / len(found))
        judges = [model for model in self.models if isinstance(model, FeedbackModel)]
        if judges:  # TRL takes the mean over the processes; the tokens are those of all
            log_metric("feedback_tokens", ranks.world_size() * sum(judge.tokens() for judge in judges))
        log_metric("refusals", sum(map(is_refusal, texts)) / len(texts))
        log_metric("unfinished", sum(not sample["finished"] for sample in samples) / len(samples))
        log_metric("empty", sum(map(is_empty, texts)) / len(texts))
        log_metric("boilerplate", boilerplate(prompts, texts))
        rewards = [sample["reward"] for sample in samples]
        log_metric("no_signal", no_signal(rewards, self.num_generations))

    def _log(self, state: TrainerState, prompts: list[str], samples: list[Sample]) -> None:
        """Log the answers of every process at the first, the last and every `every`-th step; never held-out ones."""
        step = state.global_step + 1
        held_out = self.examples[int(prompts[0])].get("held_out", False)
        if held_out or not (step % self.every == 0 or step == 1 or step == state.max_steps):
            return
        # ids of their own, so that the file can be scored and graded
        self.log.write([
            {"step": step, **sample, "id": f"{sample['id']}/{step}-{number}", "source_id": sample["id"]}
            for number, sample in enumerate(ranks.gather(samples))
        ])  # fmt: skip
