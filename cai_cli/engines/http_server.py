"""One server of the server engine: its client, what it serves, and what it can do."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cai_cli.engines import http_api, http_client
from cai_cli.engines.base import Choice, Failure, Request, Result, Score
from cai_cli.engines.http_api import LADDER, Abilities, Garbage
from cai_cli.errors import InputError

RETRIES = 4
"""How often the library repeats a request that fails."""
TIMEOUT, PER_TOKEN = 300.0, 0.5
"""Seconds that a request may take with all its attempts, and more for each token that it may generate."""
PROBE = 60.0
"""Seconds for each of the small requests by which a server shows that it works."""
KEY = "CAI_API_KEY"
"""The environment variable with the API key. Not OPENAI_API_KEY: that key is not for any server that --base-url names."""
REFUSED = (400, 403, 404, 405, 413, 415, 422, 501)
"""Status codes of a server that works and refuses the request."""


def listens(url: str) -> bool:
    """Whether anything accepts a connection there."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), 5):
            return True
    except (OSError, ValueError):
        return False


def check_urls(urls: Sequence[str]) -> list[str]:
    """The base URLs without a final slash. InputError if one is none, or holds a secret."""
    for number, url in enumerate(urls, 1):
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise InputError(f"--base-url number {number}: not a URL; give one such as http://127.0.0.1:8000/v1") from None
        if parts.username or parts.password or parts.query or parts.fragment:  # not named: it may be a secret
            raise InputError(f"--base-url number {number}: leave out the user, password and query; {KEY} holds the API key")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--base-url {url}: give a URL such as http://127.0.0.1:8000/v1")
    return list(dict.fromkeys(url.rstrip("/") for url in urls))


class Server:
    """One URL: its client, and what is known of the server behind it."""

    def __init__(self, url: str) -> None:
        self.url, self.key = url, os.environ.get(KEY, "").strip()
        if self.key and not (self.key.isascii() and self.key.isprintable()):  # a message about it would show it
            raise InputError(f"{KEY}: an API key has only printable ASCII characters")
        self.can: Abilities | None = None
        """None until the server has answered, and while it is down."""
        self.model, self.context = "", 0
        self.busy, self.answered, self.lost = 0, 0.0, 0.0
        """Its requests now; when it last answered; when it was lost."""
        self.checking, self.patient = asyncio.Lock(), False
        """Held while it is inspected; whether the library repeats small requests that a busy server refuses."""
        self.breaks, self.inspected = 0, 0
        """How often it may have become another server (a connection broke, or it was idle), and how often by its inspection."""
        self.client = http_client.client(url, self.key, self.broke)

    def broke(self) -> None:
        """It may be another server from now on."""
        self.breaks += 1

    async def post(self, request: Request, can: Abilities, tokenizer: Any, probe: bool = False) -> Result:
        """The result of a request. `probe`: it is a small one, with a short time limit, and is repeated only if `patient`."""
        path, body = http_api.body(request, can)
        options: Any = {"max_retries": RETRIES if not probe or self.patient else 0}
        async with asyncio.timeout(PROBE if probe else TIMEOUT + PER_TOKEN * body["max_tokens"]):
            reply = await self.client.post(path, body={"model": self.model, **body}, cast_to=object, options=options)
        found = http_api.result(request, reply, can, tokenizer)
        missing = isinstance(found, Failure) or (isinstance(found, Choice) and found.outside)
        fits = not self.context or len(request.ids) + 2 <= self.context  # the letter, and the token that is generated
        return await self._choice_by_echo(request, can, tokenizer) if can.echo and missing and request.options and fits else found

    async def _choice_by_echo(self, request: Request, can: Abilities, tokenizer: Any) -> Result:
        """Exact log probabilities of options outside the most likely tokens: each as the last token of a prompt."""
        values = {}
        for name, token in (request.options or {}).items():
            score = await self.post(Request("score", [*request.ids, token], "", answer=1), can, tokenizer)
            assert isinstance(score, Score)
            values[name] = score.score
        return Choice(values, len(request.ids))

    async def inspect(self, name: str, model: str, wanted: Abilities | None, tokenizer: Any) -> None:
        """Find the served model and what the server can do. Garbage if it is not `model`, unless that is empty.

        `wanted`: what it must be able to do; None: find the most.
        """
        async with asyncio.timeout(PROBE):
            options: Any = {"max_retries": RETRIES if self.patient else 0}
            reply: Any = await self.client.get("/models", cast_to=object, options=options)
        try:
            served = {str(entry["id"]): dict(entry) for entry in reply["data"]}
        except (LookupError, TypeError, ValueError):
            raise Garbage("its list of models cannot be read") from None
        if model and model not in served:
            raise Garbage(f"serves {_listed(served)}, not '{model}'")
        self.model = model or _served(served, name, self.url)
        length = served[self.model].get("max_model_len")
        self.context = length if isinstance(length, int) and 0 < length < 2**31 else 0
        found = await self._climb((wanted,) if wanted else LADDER, tokenizer)
        if wanted and not wanted.within(found):
            raise Garbage("it can do less than the run's first server, and servers of one run must be alike")
        # also after a break during the inspection: a busy server's own refusals are some
        self.can, self.inspected = wanted or found, self.breaks

    async def _climb(self, ladder: Sequence[Abilities], tokenizer: Any) -> Abilities:
        """The first of `ladder` that the server can do, and what else it can. The last problem if it can do none of them."""
        ids = tokenizer("The answer is: (A) or (B).", add_special_tokens=False).input_ids
        options = {"A": ids[0], "B": ids[-1]}
        problem: Exception = Garbage("it offers neither completions nor a chat")
        for can in ladder:
            kind: Any = "choose" if can.top else "generate"
            messages: Any = None if can.tokens else [{"role": "user", "content": "Is it A or B?"}]
            probe = Request(kind, ids, "", max_tokens=1, temperature=0.0, options=options if can.top else None, messages=messages)
            try:  # a Failure is an answer too: no letter is likely
                await self.post(probe, replace(can, echo=False), tokenizer, probe=True)
            except Exception as found:
                if not isinstance(found, Garbage) and getattr(found, "status_code", 0) not in REFUSED:
                    raise
                problem = found
                continue
            return await self._refine(can, ids, tokenizer)
        raise problem

    async def _refine(self, can: Abilities, ids: list[int], tokenizer: Any) -> Abilities:
        """Whether a server with tokens gives likelihoods and has our draws, and a chat server continues an answer."""
        if not can.tokens:
            probe = _continuation(tokenizer)
            made = await self._tried(probe, replace(can, continues=True), tokenizer)
            # A chat server that continues an answer has read as many tokens as its first words make here.
            return replace(can, continues=made is not None and made.prompt_tokens == len(probe.ids))
        echo = await self._tried(Request("score", ids, "", answer=len(ids) - 1), replace(can, echo=True), tokenizer)
        # Our draws refuse a seed below 0, and a server without them does not look at it.
        probes = (Request("generate", ids, "", max_tokens=1, seed=seed) for seed in (0, -1))
        good, bad = [await self._tried(probe, replace(can, draws=True), tokenizer) for probe in probes]
        return replace(can, echo=echo is not None, draws=good is not None and bad is None)

    async def _tried(self, probe: Request, can: Abilities, tokenizer: Any) -> Any:
        """The result of a small request; None if the server refuses it, or answers what is no result."""
        try:
            return await self.post(probe, can, tokenizer, probe=True)
        except Exception as found:
            if isinstance(found, Garbage) or getattr(found, "status_code", 0) in (*REFUSED, 500):
                return None
            raise


def _continuation(tokenizer: Any) -> Request:
    """A chat that ends with the first words of an answer."""
    messages: Any = [{"role": "user", "content": "Is it A or B?"}, {"role": "assistant", "content": "The answer is: ("}]
    try:
        ids = tokenizer.apply_chat_template(messages, continue_final_message=True, return_dict=False)
    except (ValueError, TypeError):  # no template here
        ids = []
    return Request("generate", ids, "", max_tokens=1, temperature=0.0, messages=messages)


def _served(served: dict[str, Any], name: str, url: str) -> str:
    """The served model that -m names, or the only one. InputError if it cannot be told."""
    names = {name, name.rstrip("/"), Path(name).name, str(Path(name).resolve())}
    known = [model for model, entry in served.items() if names & {model, Path(model).name, str(entry.get("root"))}]
    if known:
        return known[0]
    if len(served) == 1:
        return next(iter(served))
    raise InputError(f"{url} serves {_listed(served)}; give -m the directory or the name of one of them")


def _listed(served: dict[str, Any]) -> str:
    return ", ".join(f"'{model}'" for model in sorted(served)) or "no model"


def reason_of(problem: Exception, server: Server) -> str:
    """What went wrong with a request, in one line without the key."""
    cause = problem.__cause__ if type(problem).__name__ == "APIConnectionError" else None
    body = getattr(problem, "body", None)
    if isinstance(body, dict) and body.get("message"):
        text = f"status {getattr(problem, 'status_code', '')}: {body['message']}"
    else:
        text = str(cause or problem) or type(cause or problem).__name__
    if isinstance(problem, TimeoutError) or type(problem).__name__ == "APITimeoutError":
        text = "no answer in time"
    text = " ".join(text.split())
    return (text.replace(server.key, "***") if server.key else text)[:300]
