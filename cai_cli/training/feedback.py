"""The constitution as the reward of RL: a feedback model judges the policy's answers (`cai rl --feedback`).

    grade      each answer alone, as in `cai grade`: the probability that a critic who applies the principle finds nothing
    compare    the answers to a prompt with one another, in both orders, as in `cai label`: the mean probability of winning

Nothing is generated or parsed. All answers to a prompt are judged by the same principles, drawn from (seed, id, step). A record's
`rubric` replaces the constitution. Not in the paper, whose reward is a preference model trained on labels (section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cai_cli import streams
from cai_cli.data.jsonl import Record
from cai_cli.data.records import by_principle
from cai_cli.engines import models
from cai_cli.engines.base import Engine, Feed, Key, Request, Result, Steps
from cai_cli.engines.dispatch import Dispatcher
from cai_cli.errors import CaiError, Skipped
from cai_cli.method import rubrics
from cai_cli.method.constitution import Constitution, Principle
from cai_cli.method.grader import Grader
from cai_cli.method.judge import Asking, Judge, JudgeSettings
from cai_cli.method.prompts import Prompt
from cai_cli.method.rubrics import Criterion
from cai_cli.method.tokens import Renderer
from cai_cli.pipeline.inline import drive
from cai_cli.pipeline.stage import STREAK
from cai_cli.training.examples import RLExample, require_length
from cai_cli.training.settings import Settings

if TYPE_CHECKING:
    from cai_cli.engines.select import Setup
    from cai_cli.engines.server import ServerEngine


@dataclass(frozen=True)
class Feedback:
    """How the feedback models of a run judge, from the flags of `cai rl`."""

    names: list[str]
    """The models, each with `=WEIGHT` if it is not 1."""
    constitution: Constitution
    how: str = "grade"
    """"grade" or "compare"."""
    principles: int = 1
    """How many are drawn for a prompt at each step; the reward is the mean over them, by their weights."""
    few_shot: int | None = None
    """How many of the constitution's examples a comparison shows; None for all."""
    urls: list[str] = field(default_factory=list)
    """Servers that run the model; without any it is loaded here."""
    replicas: int = 0
    """Engines of the model in processes of their own; 0: one in the training process, or in each of several."""
    gpus: list[str] = field(default_factory=list)
    """Those of the replicas, as CUDA_VISIBLE_DEVICES names them. Empty without GPUs."""

    def options(self) -> dict[str, Any]:
        """What the fingerprint holds of it besides the models."""
        return {
            "constitution": self.constitution.sha256,
            "principles": list(self.constitution.by_id),
            "how": self.how,
            "principles_per_prompt": self.principles,
            "few_shot": self.few_shot,
        }


@dataclass(frozen=True)
class Scored:
    """A model's score of an answer."""

    value: float
    by_principle: dict[str, float] = field(default_factory=dict)
    """The score by the principle's id; empty for a preference model."""


def reader(folder: Path, settings: Settings) -> Renderer:
    """Turns conversations into the tokens of a model of the reward."""
    found = Renderer(models.load_tokenizer(folder, settings.trust_remote_code), fold_system=settings.fold_system)
    # the policy's template may read variables that this one does not have
    found.template.arguments = {k: v for k, v in settings.template_arg.items() if k in found.template.variables}
    return found


class _Counted:
    """An engine that counts the tokens that it computes."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.context, self.tokens = engine, engine.context, 0

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        """See `engines.base.Engine`."""
        for key, result in self.engine.run(feed):
            self.tokens += result.prompt_tokens - result.reused_tokens
            yield key, result


@dataclass
class FeedbackModel:
    """One feedback model of the reward. Its weights are loaded at its first question. It is an `Asker` of the method."""

    name: str
    folder: Path
    weight: float
    """The factor of its score in the reward."""
    settings: Settings
    feedback: Feedback
    dtype: str = "auto"
    """The type that it computes in, unless a server does."""
    group: int = 1
    """How many answers in a row are to one prompt."""
    lost: int = 0
    """Prompts in a row whose answers it could not judge."""

    @cached_property
    def renderer(self) -> Renderer:
        """Turns prompts into its tokens."""
        found = reader(self.folder, self.settings)
        found.keep_messages = bool(self.feedback.urls)
        return found

    @property
    def elsewhere(self) -> bool:
        """Whether its weights take no memory of the device that trains."""
        return bool(self.feedback.urls or (self.feedback.replicas and models.device() != "cpu"))

    @property
    def format(self) -> str:
        """The prompt format that it reads, "chat" or "hh"."""
        return self.renderer.format(self.settings.format)

    @property
    def seed(self) -> int:
        """Decides the draws."""
        return self.settings.seed

    def request(self, prompt: Prompt, *parts: str | int) -> Request:
        """A request for text, which a reward does not make."""
        raise NotImplementedError

    def shown(self, record: Record) -> Record:
        """The record: its answers are already those that the model may see."""
        return record

    @cached_property
    def _server(self) -> ServerEngine:
        """The servers. CaiError if none answers, InputError if they cannot do what is needed."""
        from cai_cli.engines.server import ServerEngine

        found = ServerEngine(self.feedback.urls, self.name, self.folder, self.settings.trust_remote_code)
        found.require_prompts(self.format, self.renderer.template.arguments)
        return found

    def served(self) -> Record:
        """What the fingerprint says about servers, which it asks; empty without them."""
        return {**self._server.abilities(), "dtype": "unknown"} if self.feedback.urls else {}

    @cached_property
    def engine(self) -> _Counted:
        """The model, loaded here or on servers. CaiError if that fails."""
        from cai_cli.engines.select import Setup, pick

        if self.feedback.urls:
            return _Counted(self._server)
        name = pick("auto") if self.feedback.gpus else "transformers"
        setup = Setup(name, self.folder, self.dtype, trust_remote_code=self.settings.trust_remote_code)
        return _Counted(self._replicas(setup) if self.feedback.replicas else setup.open_one())

    def _replicas(self, setup: Setup) -> Dispatcher:
        """The engines in processes of their own. CaiError if one cannot start."""
        from cai_cli.engines import replicas
        from cai_cli.engines.select import EACH

        gpus = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in self.feedback.gpus]
        environments = gpus or replace(setup, replicas=self.feedback.replicas).environments()
        return replicas.open_replicas(setup.open_one, environments, EACH, fork=False)

    def close(self) -> None:
        """End its replicas."""
        if (opened := self.__dict__.pop("engine", None)) and isinstance(opened.engine, Dispatcher):
            opened.engine.close()

    @cached_property
    def _judge(self) -> Judge:
        chosen = JudgeSettings(few_shot=self.feedback.few_shot)
        return Judge(self, self.feedback.constitution, chosen)

    @cached_property
    def _criteria(self) -> dict[str, Criterion]:
        return {criterion.id: criterion for criterion in rubrics.of_constitution(self.feedback.constitution).criteria}

    def require_length(self, example: RLExample, max_tokens: int) -> None:
        """Skipped if a prompt is so long that a question about answers of `max_tokens` may exceed the model's context."""
        answers, each = ["a", "b"], max_tokens * (2 if self.feedback.how == "compare" else 1)
        asked = next(self._program(example, answers, 0))
        longest = models.context_length(self.folder) - each - 1
        require_length(max(len(request.ids) for request in asked), longest, "the feedback model's context minus --max-tokens")

    def tokens(self) -> int:
        """The tokens computed since the last call."""
        found, self.engine.tokens = self.engine.tokens, 0
        return found

    def scores(self, examples: list[RLExample], texts: list[str], step: int) -> list[Scored | None]:
        """Its scores of the answers `texts`, those to one prompt in a row. None for a prompt that it could not judge."""
        groups = [range(start, min(start + self.group, len(texts))) for start in range(0, len(texts), self.group)]
        programs = [self._program(examples[group[0]], [texts[i] for i in group], step) for group in groups]
        found: list[Scored | None] = [None] * len(texts)
        for group, scored in zip(groups, drive(self.engine, programs, self.engine.context), strict=True):
            self.lost = self.lost + 1 if isinstance(scored, Skipped) else 0
            if self.lost >= STREAK:
                raise CaiError(f"{self.name}: could judge the answers to none of {STREAK} prompts in a row: {scored}")
            if isinstance(scored, Skipped):
                streams.warn(f"rl: no reward for the answers to {examples[group[0]]['id']}: {scored}")
                continue
            for i, each in zip(group, scored, strict=True):
                found[i] = each
        return found

    def _program(self, example: RLExample, texts: list[str], step: int) -> Steps[list[Scored]]:
        """Judge the answers to one prompt."""
        chosen = self.feedback
        drawn = chosen.constitution.draw_several(self.seed, "feedback", f"{example['id']}/{step}", chosen.principles)
        own = rubrics.own({"rubric": example["rubric"]}) if example.get("rubric") else None
        record: Record = {"id": example["id"], "prompt": example["messages"], "responses": texts}
        if chosen.how == "compare":
            return self._compare(record, [rubrics.principle_of(c) for c in own] if own else drawn)
        return self._grade(record, own or [self._criteria[p.id] for p in drawn])

    def _grade(self, record: Record, criteria: list[Criterion] | tuple[Criterion, ...]) -> Steps[list[Scored]]:
        """The probability of each criterion's first class, and their mean by the criteria's weights."""
        graded = (yield from Grader(self, Asking()).grade(record, criteria))["grades"]
        found = []
        for i in range(len(record["responses"])):
            means = {criterion.id: next(iter(graded[criterion.id][i].values())) for criterion in criteria}
            found.append(Scored(rubrics.overall(criteria, means) or 0.0, means))
        return found

    def _compare(self, record: Record, principles: list[Principle]) -> Steps[list[Scored]]:
        """The mean probability of winning against each other answer, over the principles by their weights."""
        pairs = list(combinations(range(len(record["responses"])), 2))
        won: list[dict[str, list[float]]] = [{p.id: [] for p in principles} for _ in record["responses"]]
        labels, _ = yield from self._judge.judge(record, pairs, principles)
        for (i, j), label in zip(pairs, labels, strict=True):
            assert label  # without reasoning none is cut
            by = by_principle(label)
            for p in principles:
                first = by.get(p.id, 0.5)  # about two equal answers the judge is not asked
                won[i][p.id].append(first)
                won[j][p.id].append(1 - first)
        total = sum(p.weight for p in principles)
        means = [{name: fmean(values) for name, values in each.items()} for each in won]
        return [Scored(sum(p.weight * each[p.id] for p in principles) / total, each) for each in means]


@contextmanager
def ending(judges: Sequence[FeedbackModel]) -> Iterator[None]:
    """Ends the replicas of the feedback models with the block."""
    try:
        yield
    finally:
        for judge in judges:
            judge.close()
