"""The interface of an engine, its requests and its results.

A request is of one of three kinds. "generate" completes a prompt. "choose" gives the log probabilities of a fixed set of
one-token options after a prompt, with one prefill per request. "score" gives the log-likelihood of an answer; a preference
model knows only "score", its raw output. An engine's one method takes a feed, in which the kinds may be mixed, and yields
results in the order in which they finish:

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]

A feed is an iterator of `(key, request)`. It yields None if there is no request at the moment and the engine should
continue with those that it has. It ends when no request is left and none is in flight.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from cai_cli.data.records import Messages, TextMeta

Key = Hashable
"""Names a request within a run. An engine only returns it with the result."""


Kind = Literal["generate", "choose", "score"]


@dataclass(frozen=True)
class Request:
    """One prompt for the model. `seed`, `max_tokens`, `temperature`, `top_p` and `stop` apply only to "generate"."""

    kind: Kind
    """What is asked: see above."""
    ids: list[int]
    """The prompt's tokens, exactly as the model gets them."""
    text: str
    """The same prompt as text, for people. Engines use `ids`."""
    seed: int = 0
    """Decides every draw of the completion, independently of other requests."""
    max_tokens: int = 0
    """The longest completion, in tokens."""
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Draws only from the most likely tokens that together have this probability."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these strings."""
    options: dict[str, int] | None = None
    """For "choose": from each possible answer to the one token that spells it."""
    answer: int = 0
    """For "score" by a language model: how many of the last `ids` are the answer whose log-likelihood is asked for."""
    shared: int = 0
    """The length of the prefix that many requests of the run share, in tokens. An engine may compute the prefix once."""
    messages: Messages | None = None
    """The same prompt as a chat, for a server that takes no tokens; the first words of an answer are its last message."""


@dataclass(frozen=True)
class Completion:
    """A generated text."""

    text: str
    """Without special tokens, and without the stop string that ended it."""
    finish: str
    """"stop" (an end token or a stop string) or "length" (it ran to `max_tokens`)."""
    seed: int
    prompt_tokens: int
    completion_tokens: int
    reused_tokens: int = 0
    """How many of the prompt tokens were not computed for this request: another one has the same prefix, or was the same."""
    tokens: Sequence[int] = ()
    """The generated tokens, special ones too."""
    reasoning: str | None = None
    """What the model wrote before its answer `text`; see `Renderer.separate`. None if it did not reason."""
    answered: bool = True
    """Whether its reasoning has an end. If not, `text` is empty."""

    def meta(self) -> TextMeta:
        """What a record keeps about how its text was made."""
        made: TextMeta = {
            "seed": self.seed,
            "finish": self.finish,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }
        if not self.answered:
            made["reasoning"] = "cut"
        return made


@dataclass(frozen=True)
class Choice:
    """The probabilities of a request's options as the next token."""

    logprobs: dict[str, float]
    """From each option to the natural logarithm of its token's probability over the whole vocabulary."""
    prompt_tokens: int
    completion_tokens: int = 0
    """Always 0: nothing is generated."""
    reused_tokens: int = 0
    """See `Completion`."""
    outside: int = 0
    """How many options have only an upper bound: a server showed the most likely tokens, and they were not among them."""


@dataclass(frozen=True)
class Score:
    """A model's score of one conversation."""

    score: float
    """A preference model's raw output, without an activation; a language model's log-likelihood of the answer, in nats."""
    prompt_tokens: int
    completion_tokens: int = 0
    """Always 0: nothing is generated."""
    reused_tokens: int = 0
    """See `Completion`."""


@dataclass(frozen=True)
class Failure:
    """A request that the engine could not answer although it works. Its record is skipped."""

    reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused_tokens: int = 0
    works: bool = False
    """Whether it says that the engine works: it answered, and refused this request."""


Result = Completion | Choice | Score | Failure
"""What a request gets: by its kind a completion, a choice or a score, or a failure."""
Feed = Iterator[tuple[Key, Request] | None]
"""Requests for an engine. None: no request at the moment."""
T = TypeVar("T")
Steps = Generator[list[Request], list[Any], T]
"""A program: it yields lists of requests, is sent the results of each list in the same order, and returns a T.

The results are `Any` because their type depends on the requests: a list of "generate" requests gets `Completion`s.
"""


class Engine(Protocol):
    """A loaded language model or preference model."""

    context: int
    """The largest number of tokens that it takes here, prompt and completion together."""

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        """Yield each request's result as it finishes."""
        ...


def common_prefix(a: list[int], b: list[int]) -> int:
    """The length of the prefix that two rows of tokens share."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # by halves: comparing slices is a hundred times as fast as comparing tokens
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
