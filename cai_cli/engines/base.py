"""What an engine must do, and what passes in and out of it.

An engine has one method a kind of request: `generate` (prompts in, completions out as they
finish), `choose` (prompts with a fixed set of one-token options in, log probabilities out, one
prefill each), and, where the model is a preference model, `score`. Each takes a feed and yields
results in the order in which they finish:

    def generate(self, feed: Feed) -> Iterator[tuple[Key, Completion]]

A feed is an iterator of `(key, request)`. It yields None for "nothing more just now: go on with
what you have", and ends when nothing is left and nothing is in flight.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Key = Hashable


@dataclass(frozen=True)
class Request:
    """One prompt as the model gets it: `ids` are its tokens, `text` the same for people.

    `options` maps each answer that `choose` weighs to the one token that spells it. `seed`,
    `max_tokens`, `temperature`, `top_p` and `stop` concern `generate` alone. The first `shared` of
    `ids` are those of many requests of a run: an engine may compute them once.
    """

    kind: Literal["generate", "choose", "score"]
    ids: list[int]
    text: str
    seed: int = 0
    max_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    options: dict[str, int] | None = None
    shared: int = 0


@dataclass(frozen=True)
class Completion:
    """A generated text. `finish` is "stop" (an end token or a stop string) or "length".

    `reused_tokens` of the prompt's were not computed for it, here as in every result: another request had the same beginning.
    """

    text: str
    finish: str
    seed: int
    prompt_tokens: int
    completion_tokens: int
    reused_tokens: int = 0

    def meta(self) -> dict[str, str | int]:
        """What a record keeps of how its text came about."""
        return {
            "seed": self.seed,
            "finish": self.finish,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True)
class Choice:
    """Log probabilities (natural, over the whole vocabulary) of each option's token."""

    logprobs: dict[str, float]
    prompt_tokens: int
    completion_tokens: int = 0
    reused_tokens: int = 0


@dataclass(frozen=True)
class Score:
    """A preference model's raw score, no activation."""

    score: float
    prompt_tokens: int
    completion_tokens: int = 0
    reused_tokens: int = 0


Result = Completion | Choice | Score
Feed = Iterator[tuple[Key, Request] | None]


class Engine(Protocol):
    """A loaded causal language model. `context` is how many tokens it takes here, prompt and completion together."""

    context: int

    def generate(self, feed: Feed) -> Iterator[tuple[Key, Completion]]:
        """Yield each request's completion as it finishes."""
        ...

    def choose(self, feed: Feed) -> Iterator[tuple[Key, Choice]]:
        """Yield each request's option log probabilities."""
        ...


class Scorer(Protocol):
    """A loaded preference model. `context` is how many tokens it takes."""

    context: int

    def score(self, feed: Feed) -> Iterator[tuple[Key, Score]]:
        """Yield each request's raw score."""
        ...
