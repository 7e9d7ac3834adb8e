"""The OpenAI-compatible HTTP API: a request as a JSON body, and a reply's JSON as a result.

Servers differ in what they can do, so `LADDER` lists what to try, best first. Prompts go as token ids to `completions`, so the
text of a record stays text and the letters of a choice are exact. A server without it gets messages (`chat/completions`),
applies a chat template of its own, and shows only the most likely tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import exp, isfinite, log
from typing import Any

from cai_cli.engines.base import Choice, Completion, Failure, Request, Result, Score
from cai_cli.engines.draws import ARGUMENT
from cai_cli.errors import CaiError

Body = dict[str, Any]
EXTRAS: Body = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Parameters beyond OpenAI's. Without them vLLM takes defaults from the model's generation_config.json."""
CONTINUE: Body = {"continue_final_message": True, "add_generation_prompt": False}
"""With these, vLLM continues the last message, and other servers ignore them."""


class Garbage(ValueError):
    """A reply that is not what the API promises."""


@dataclass(frozen=True)
class Abilities:
    """What a server can do."""

    tokens: bool = True
    """Takes token ids. Otherwise it is a chat server."""
    extras: bool = True
    """Takes parameters that OpenAI's API does not have."""
    exact: bool = False
    """Gives the log probability of any token that the request names (vLLM's `logprob_token_ids`)."""
    top: int = 0
    """How many of the most likely tokens it shows, with their log probabilities."""
    continues: bool = False
    """A chat server that continues the first words of an answer."""
    echo: bool = False
    """Gives the log probabilities of the prompt's tokens."""
    draws: bool = False
    """Has loaded `vllm_draws`, so that it draws the same tokens as the other engines. Otherwise it has seeds of its own."""

    def within(self, other: Abilities) -> bool:
        """Whether a server with the abilities `other` can do all of this."""
        return all(getattr(other, name) >= value for name, value in vars(self).items())


LADDER = (
    Abilities(exact=True, top=1),
    Abilities(top=20),
    *(Abilities(extras=False, top=top) for top in (20, 5, 0)),
    *(Abilities(tokens=False, extras=extras, top=top) for extras in (True, False) for top in (20, 5, 0)),
)
"""What a server may be able to do, the best first."""

MOST_STOPS = 4
"""Servers refuse more stop strings. The answer is cut at the others when it has come."""


def body(request: Request, can: Abilities) -> tuple[str, Body]:
    """(path, JSON body without the model's name) of a request. CaiError if the server cannot answer its kind."""
    made: Body = dict(EXTRAS) if can.extras else {}
    if request.kind == "generate":
        made |= {"max_tokens": request.max_tokens, "temperature": request.temperature, "top_p": request.top_p}
        if request.temperature and can.draws:
            drawn = [request.seed, request.temperature, request.top_p]
            made |= {"temperature": 0.0, "top_p": 1.0, "vllm_xargs": {ARGUMENT: drawn}}
        elif request.temperature:  # temperature 0 draws nothing
            made["seed"] = request.seed
        if request.stop:
            made["stop"] = list(request.stop[:MOST_STOPS])
    else:  # one token is the least that a server generates; the most likely one, so that it is among the `top`
        made |= {"max_tokens": 1, "temperature": 0.0, "top_p": 1.0}
    if request.kind == "score" and not can.echo:
        raise CaiError("the server gives no log probabilities of a prompt's tokens, which likelihoods need; vLLM does")
    if request.kind == "choose" and not can.top:
        raise CaiError("the server gives no log probabilities, which the letters of an answer need; vLLM does")
    if not can.tokens:
        return "/chat/completions", _chat(request, can, made)
    made["prompt"] = request.ids
    if can.extras:
        made |= {"add_special_tokens": False, "return_token_ids": True, "return_tokens_as_token_ids": True}
    if request.kind == "score":
        made |= {"echo": True, "logprobs": 1, "return_token_ids": False}
    if request.kind == "choose":
        made["logprobs"] = can.top
        if can.exact:
            made["logprob_token_ids"] = list((request.options or {}).values())
    return "/completions", made


def _chat(request: Request, can: Abilities, made: Body) -> Body:
    """A body for a chat server."""
    if request.messages is None:
        raise CaiError("the server takes no token ids, so it needs --format chat; vLLM's `completions` takes them")
    *before, last = request.messages
    made["messages"] = request.messages
    if last["role"] == "assistant" and can.continues:
        made |= CONTINUE
    elif last["role"] == "assistant":  # ask for the first words of the answer, since they cannot be given
        *earlier, question = before
        ask = "Answer with the letter alone." if request.options else f"Begin your answer with: {last['content']}"
        made["messages"] = [*earlier, {**question, "content": f"{question['content']}\n\n{ask}"}]
    if request.kind == "choose":
        made |= {"logprobs": True, "top_logprobs": can.top}
    return made


def result(request: Request, reply: Any, can: Abilities, tokenizer: Any) -> Result:
    """The result of a request. Garbage if the reply is not one to it."""
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        length = len(request.ids) if can.tokens else _count(usage.get("prompt_tokens"))
        if can.tokens and usage.get("prompt_tokens", length) != length:
            raise Garbage(f"the server read {_count(usage['prompt_tokens'])} tokens of a prompt of {length}")
        reused = _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
        if request.kind == "score":
            found = choice["logprobs"]["token_logprobs"][length - request.answer : length]
            if len(found) != request.answer:
                raise Garbage("log probabilities are missing")
            return Score(sum(map(_number, found)), length)
        if request.kind == "choose":
            return _choice(request, choice["logprobs"], can, tokenizer, length, reused)
        return _completion(request, choice, usage, length, reused)
    except Garbage:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as problem:
        raise Garbage(f"not a reply of the API ({type(problem).__name__}: {str(problem)[:80]})") from None


def _number(value: Any) -> float:
    """A log probability."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value > 0.01:
        raise Garbage("a log probability is none")
    return float(value)


def _count(value: Any) -> int:
    """A number of tokens, or a token; 0 if it is absent."""
    if not 0 <= int(value or 0) < 2**32:
        raise Garbage("a count of tokens is none")
    return int(value or 0)


def _completion(request: Request, choice: Any, usage: Any, length: int, reused: int) -> Result:
    message, finish = choice.get("message") or {}, choice["finish_reason"]
    text = message.get("content") or "" if message else choice["text"]
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if finish == "content_filter":
        return Failure("the server's filter ended the answer", works=True)
    if finish not in ("stop", "length"):
        raise Garbage(f"finish reason {finish!r}")
    for part in (text, reasoning or ""):
        part.encode()  # a lone half of a surrogate pair could not be written
    if message and request.messages and request.messages[-1]["role"] == "assistant":
        text = text.removeprefix(request.messages[-1]["content"])  # a server that does not continue an answer begins it again
    stops = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    if stops:
        text, finish = text[: min(stops)], "stop"
    tokens = tuple(map(_count, choice.get("token_ids") or ()))
    count = _count(usage.get("completion_tokens")) or len(tokens)
    made = Completion(text, finish, request.seed, length, count, reused, tokens)
    return replace(made, reasoning=reasoning) if reasoning else made


def _choice(request: Request, logprobs: Any, can: Abilities, tokenizer: Any, length: int, reused: int) -> Result:
    """The options' log probabilities; an option outside the most likely tokens gets the last one's, its upper bound."""
    entries = sorted(_entries(logprobs), key=lambda entry: -entry[2])
    found = {}
    for name, token in (request.options or {}).items():
        spelled = tokenizer.decode([token])
        if can.tokens:
            same = [value for number, text, value in entries if number == token or (number is None and text == spelled)][:1]
        else:  # the server's template or the model may put a space or a bracket before a letter
            same = [value for _, text, value in entries if text.strip(" (") == name]
        if same:
            found[name] = log(sum(map(exp, same))) if len(same) > 1 else same[0]
    missing = [name for name in request.options or {} if name not in found]
    if missing and can.exact:
        raise Garbage("log probabilities of named tokens are missing")
    shown = entries[: can.top]
    if missing and (not found or not shown):
        return Failure(f"none of the options is among the {len(shown)} most likely tokens, and the server shows no others")
    values = {name: found.get(name, shown[-1][2]) for name in request.options or {}}
    return Choice(values, length, reused_tokens=reused, outside=len(missing))


def _entries(logprobs: Any) -> Iterator[tuple[int | None, str, float]]:
    """(token if known, its text, its log probability) of the most likely first tokens, in either of the API's two forms."""
    if logprobs.get("content"):
        for entry in logprobs["content"][0]["top_logprobs"]:
            yield entry.get("id"), entry["token"], _number(entry["logprob"])
        return
    for text, value in logprobs["top_logprobs"][0].items():
        number = text.removeprefix("token_id:")
        yield int(number) if number != text else None, text, _number(value)
