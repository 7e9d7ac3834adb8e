"""The server engine: requests go to one or several OpenAI-compatible servers. docs/servers.md is for their users.

    vllm serve MODEL &
    cai sample prompts.jsonl -m MODEL --engine server --base-url http://127.0.0.1:8000/v1 -o responses.jsonl

The prompts are made here, with the tokenizer and the template of -m. The library `openai` sends the requests, and repeats them
with back-off and jitter. This module chooses the least busy server and decides what a failure means:

- The server does not answer a small request either: it is down. Its requests go to the others, and it is asked again and again.
  If no server answers for `WAIT` seconds, the run ends, and the same command continues it.
- The server answers: the request is the cause. After `TRIES` failures it gets a `Failure`, which skips its record.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cai_cli import streams
from cai_cli.engines import http_api, http_client, models
from cai_cli.engines.base import Failure, Feed, Key, Request, Result
from cai_cli.engines.dispatch import Dispatcher
from cai_cli.engines.http_api import LADDER, Abilities, Garbage
from cai_cli.errors import CaiError, InputError

EACH = 64
"""The largest number of requests that a server has at a time, if --batch-size gives no other."""
WAIT = 600.0
"""Seconds to wait until one of the servers answers."""
TRIES = 3
"""Failures of a request before its record is skipped. Each is the last of `RETRIES` + 1 attempts of the library."""
RETRIES = 4
TIMEOUT, PER_TOKEN = 300.0, 0.5
"""Seconds that a request may take with all its attempts, and more for each token that it may generate."""
PROBE = 60.0
"""Seconds for each of the small requests by which a server shows that it works."""
KEY = "CAI_API_KEY"
"""The environment variable with the API key. Not OPENAI_API_KEY: that key is not for any server that --base-url names."""
REFUSED = (400, 403, 404, 405, 413, 415, 422, 501)
"""Status codes of a server that works and refuses the request."""
LATER = (429, 502, 503, 504)
"""Status codes of a server that is busy, or of a proxy whose server is starting."""
ABILITIES = ("served", "prompts", "letters", "draws")
"""The attributes of a `ServerEngine` that decide its answers."""


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
        self.known: Abilities | None = None
        """What it could do at first. It must do so again after a loss."""
        self.model, self.context = "", 0
        self.busy, self.answered, self.lost = 0, 0.0, 0.0
        """Its requests now; when it last answered; when it was lost."""
        self.checking = asyncio.Lock()
        self.client = http_client.client(url, self.key)

    async def post(self, request: Request, can: Abilities, tokenizer: Any, probe: bool = False) -> Result:
        """The result of a request, or of a small one that is tried once."""
        path, body = http_api.body(request, can)
        options: Any = {"max_retries": 0 if probe else RETRIES}
        async with asyncio.timeout(PROBE if probe else TIMEOUT + PER_TOKEN * body["max_tokens"]):
            reply = await self.client.post(path, body={"model": self.model, **body}, cast_to=object, options=options)
        return http_api.result(request, reply, can, tokenizer)

    async def inspect(self, name: str, model: str, tokenizer: Any) -> None:
        """Find the served model and what the server can do. Garbage if it is not `model`, unless that is empty."""
        async with asyncio.timeout(PROBE):
            reply: Any = await self.client.get("/models", cast_to=object, options={"max_retries": 0})
        try:
            served = {str(entry["id"]): dict(entry) for entry in reply["data"]}
        except (LookupError, TypeError, ValueError):
            raise Garbage("its list of models cannot be read") from None
        if model and model not in served:
            raise Garbage(f"serves {_listed(served)}, not '{model}'")
        self.model = model or _served(served, name, self.url)
        length = served[self.model].get("max_model_len")
        self.context = length if isinstance(length, int) and 0 < length < 2**31 else 0
        self.can = self.known = await self._climb(tokenizer)

    async def _climb(self, tokenizer: Any) -> Abilities:
        """The best of `LADDER` that the server can do, or what it could do before. The last problem if it can do nothing."""
        ids = tokenizer("The answer is: (A) or (B).", add_special_tokens=False).input_ids
        options = {"A": ids[0], "B": ids[-1]}
        problem: Exception = Garbage("it offers neither completions nor a chat")
        for can in (self.known,) if self.known else LADDER:
            kind: Any = "choose" if can.top else "generate"
            messages: Any = None if can.tokens else [{"role": "user", "content": "Is it A or B?"}]
            probe = Request(kind, ids, "", max_tokens=1, temperature=0.0, options=options if can.top else None, messages=messages)
            try:
                await self.post(probe, can, tokenizer, probe=True)  # a Failure is an answer too: no letter is likely
            except Exception as found:
                if not isinstance(found, Garbage) and getattr(found, "status_code", 0) not in REFUSED:
                    raise
                problem = found
                continue
            return self.known or await self._refine(can, ids, tokenizer)
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


class ServerEngine:
    """One or several servers of one model. See `engines.base.Engine`."""

    def __init__(
        self, urls: Sequence[str], name: str, folder: Path, trust_remote_code: bool = False, each: int | None = None
    ) -> None:
        """Waits for a server that is starting. CaiError if none answers, or not as it must.

        `name`: the model as -m gives it. `each`: how many requests a server has at a time; None: EACH.
        """
        self.name, self.tokenizer = name, models.load_tokenizer(folder, trust_remote_code)
        self.served, self.each = "", each or EACH
        self.first: Server | None = None
        """The server that answered first. The others must be able to do the same."""
        self.ending: CaiError | None = None
        self.recovering: set[asyncio.Task[None]] = set()
        self.loop = asyncio.new_event_loop()
        self.changed = asyncio.Condition()
        self.servers = [Server(url) for url in check_urls(urls)]
        threading.Thread(target=self.loop.run_forever, name="server engine", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._connect(), self.loop).result()
        lengths = [server.context for server in self.servers if server.context]
        self.context = min([models.context_length(folder), *lengths])
        assert self.first is not None
        can = self.first.known or Abilities()
        self.prompts: str = "tokens" if can.tokens else "messages"
        """What they take. To messages they apply their own chat template."""
        self.letters: str = "exact" if can.exact else f"top {can.top}"
        """Of which tokens they give the probability."""
        self.draws: str = "cai" if can.draws else "server"
        """Whose seeds draw their tokens."""

    @property
    def most(self) -> int:
        """The largest number of requests that all servers have at a time."""
        return self.each * len(self.servers)

    def require_prompts(self, format: str, template_args: Mapping[str, object]) -> None:
        """InputError if the servers cannot be given the prompts of this format."""
        if self.prompts == "messages" and (format != "chat" or template_args):
            raise InputError(
                "the server takes no token ids and applies its own template, so it needs --format chat and no --template-arg"
            )

    def abilities(self) -> dict[str, Any]:
        """What decides the answers: what is served, and what the servers can do. URLs may change."""
        return {name: getattr(self, name) for name in ABILITIES}

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        """Yield each request's result as it finishes."""
        try:
            yield from Dispatcher([self], self.context, self.most).run(feed)
        finally:  # the caller may stop early: nothing needs what is still computed
            self.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        for task in asyncio.all_tasks(self.loop) - self.recovering:
            task.cancel()

    def submit(self, request: Request) -> Future[Result]:
        """Begin a request. See `dispatch.Worker`."""
        return asyncio.run_coroutine_threadsafe(self._answer(request), self.loop)

    async def _answer(self, request: Request) -> Result:
        """The result of a request, from whichever server gives it."""
        tries, last, begun = 0, None, self.loop.time()
        while True:
            server = await self._least_busy(last)
            try:
                assert server.can
                result = await server.post(request, server.can, self.tokenizer)
                server.answered = self.loop.time()
                return result
            except CaiError:
                raise
            except Exception as problem:
                last, reason, code = server, _reason(problem, server), getattr(problem, "status_code", 0)
                failed = self.loop.time()
                self._require_possible(server, code, reason)
            finally:
                server.busy -= 1
                async with self.changed:
                    self.changed.notify_all()
            if code == 429:  # it answers, only later
                latest = max([begun, *(server.answered for server in self.servers)])
                if self.loop.time() - latest > WAIT:
                    await self._end(f"{server.url} has answered no request for {WAIT / 60:.0f} minutes ({reason})")
                    continue  # to the end
                await asyncio.sleep(random.uniform(1, 5))
            elif await self._works(server, failed):
                tries += 1
                if tries >= TRIES or code in REFUSED:
                    return Failure(reason)
                if not code:  # the library pauses only before it repeats a request itself
                    await asyncio.sleep(2**tries * random.uniform(0.25, 0.5))

    async def _least_busy(self, avoid: Server | None) -> Server:
        """The server for the next request, counted as one of its requests. Waits while all are busy or down."""
        async with self.changed:
            while True:
                if self.ending:
                    raise self.ending
                free = [server for server in self.servers if server.can and server.busy < self.each]
                if free:
                    server = min(free, key=lambda server: (server is avoid, server.busy))
                    server.busy += 1
                    return server
                await self.changed.wait()

    async def _end(self, message: str) -> None:
        """End the run: the requests that wait for a server raise the error."""
        self.ending = self.ending or CaiError(f"{message}; finished records are kept, and the same command continues")
        async with self.changed:
            self.changed.notify_all()

    def _require_possible(self, server: Server, code: int, reason: str) -> None:
        """CaiError if no later request can succeed."""
        if code == 401:
            raise CaiError(f"{server.url} refuses the API key ({reason}); {KEY} holds it") from None
        if 300 <= code < 400:
            raise CaiError(f"{server.url} redirects to another address ({reason}); give that as --base-url") from None

    async def _works(self, server: Server, since: float) -> bool:
        """Whether a server has answered since a request failed, or answers now. If not, it is down from now on."""
        async with server.checking:  # one of many requests that fail together asks for all
            if server.answered > since or server.can is None:
                return server.can is not None
            try:
                await self._inspect(server)
            except Exception as problem:
                self._lose(server, _reason(problem, server))
            return server.can is not None

    async def _inspect(self, server: Server) -> None:
        """Ask a server what it serves and can do; it must be the run's model."""
        await server.inspect(self.name, self.served, self.tokenizer)
        self.first = self.first or server
        # Its numbers, and even its prompts, would be of another kind than those before it.
        if server.can != self.first.known or (server.context and server.context < self.first.context):
            server.can = server.known = None
            raise Garbage(f"it cannot do what {self.first.url} can; servers of one run must be alike")
        self.served, server.answered = server.model, self.loop.time()

    def _lose(self, server: Server, reason: str) -> None:
        """Give a server no more requests until it answers again."""
        server.can, server.lost = None, self.loop.time()
        others = sum(one.can is not None for one in self.servers)
        then = f"the other {others} continue with its requests" if others else f"waiting for up to {WAIT / 60:.0f} minutes"
        streams.warn(f"{server.url} does not answer ({reason}); {then}")
        task = self.loop.create_task(self._recover(server, reason))
        self.recovering.add(task)
        task.add_done_callback(self.recovering.discard)

    async def _recover(self, server: Server, reason: str) -> None:
        """Ask a lost server again until it answers. Ends the run if none has answered for too long."""
        pause = 0.5
        while server.can is None:
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(2 * pause, 10.0)
            try:
                await self._inspect(server)
            except Exception as problem:
                server.can, reason = None, _reason(problem, server)
                dark = not any(one.can for one in self.servers)
                if self.ending or (dark and self.loop.time() - max(one.lost for one in self.servers) > WAIT):
                    return await self._end(f"{server.url} has not answered for {WAIT / 60:.0f} minutes ({reason})")
        streams.say(f"{server.url} answers again")
        async with self.changed:
            self.changed.notify_all()

    async def _connect(self) -> None:
        """Inspect every server. Waits for one; those that do not answer yet join later."""
        lost = []
        for server in self.servers:
            try:
                await self._inspect(server)
            except CaiError:
                raise
            except Exception as problem:
                reason, code = _reason(problem, server), getattr(problem, "status_code", 0)
                self._require_possible(server, code, reason)
                if isinstance(problem, ValueError) or (code and code not in LATER):
                    raise CaiError(f"{server.url} is no server for this run: {reason}") from None
                lost.append((server, reason))
        for server, reason in lost:
            self._lose(server, reason)
        for server in self.servers:
            if (can := server.can) and not can.exact:
                prompts = "takes token ids" if can.tokens else "takes no token ids, so it applies its own chat template"
                streams.say(f"{server.url} {prompts}; it shows the {can.top} most likely tokens where letters are asked for")
        async with self.changed:
            await self.changed.wait_for(lambda: self.ending or any(server.can for server in self.servers))
        if self.ending:
            raise self.ending
        model = Path(self.served).name
        if model not in (Path(self.name).name, Path(self.name).resolve().name):
            streams.warn(f"the server calls its model '{self.served}', and -m is '{self.name}': make sure that they are the same")


def _reason(problem: Exception, server: Server) -> str:
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
