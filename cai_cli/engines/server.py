"""The server engine: requests go to one or several OpenAI-compatible servers. docs/servers.md is for their users.

    vllm serve MODEL &
    cai sample prompts.jsonl -m MODEL --engine server --base-url http://127.0.0.1:8000/v1 -o responses.jsonl

The prompts are made here, with the tokenizer and the template of -m. The library `openai` sends the requests, and repeats them
with back-off and jitter. This module chooses the least busy server and decides what a failure means:

- The server does not answer a small request either: it is down. Its requests go to the others, and it is asked again and again.
  If no server answers for `WAIT` seconds, the run ends, and the same command continues it. A request with which servers go down
  again and again is given up (`dispatch.Losses`).
- The server answers: the request is the cause. After `TRIES` failures it gets a `Failure`, which skips its record.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from cai_cli import streams
from cai_cli.engines import models
from cai_cli.engines.base import Failure, Feed, Key, Request, Result
from cai_cli.engines.dispatch import TOO_OFTEN, Dispatcher, Losses
from cai_cli.engines.http_api import Abilities, Garbage
from cai_cli.engines.http_server import KEY, REFUSED, Server, check_urls, reason_of
from cai_cli.errors import CaiError, InputError

EACH = 64
"""The largest number of requests that a server has at a time, if --batch-size gives no other."""
WAIT = 600.0
"""Seconds to wait until one of the servers answers."""
TRIES = 3
"""Failures of a request before its record is skipped. Each is the last of `RETRIES` + 1 attempts of the library."""
IDLE = 20.0
"""Seconds without an answer or a request after which a server may be another one, without a connection that broke."""
LATER = (429, 502, 503, 504)
"""Status codes of a server that is busy, or of a proxy whose server is starting."""
ABILITIES = ("served", "prompts", "letters", "draws")
"""The attributes of a `ServerEngine` that decide its answers."""


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
        self.first: tuple[Abilities, int] | None = None
        """Abilities and context of the server that answered first. All must be able to do the same, also later."""
        self.losses = Losses()
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
        can = self.first[0]
        self.prompts: str = "tokens" if can.tokens else "messages"
        """What they take. To messages they apply their own chat template."""
        self.letters: str = "exact" if can.exact or can.echo else f"top {can.top}"
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
            dispatcher = Dispatcher([self], self.context, self.most)
            dispatcher.silence = float("inf")  # requests have a time limit of their own
            yield from dispatcher.run(feed)
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
        tries, last, begun, key = 0, None, self.loop.time(), object()
        while True:
            server = await self._least_busy(last, key)
            started = self.loop.time()
            if server.busy == 1 and started - server.answered > IDLE:
                server.broke()
            try:
                assert server.can
                result = await server.post(request, server.can, self.tokenizer)
                self.losses.take(server, key)
                if server.breaks > server.inspected and not await self._is_the_same(server):
                    continue  # the answer may be of another model
                server.answered = self.loop.time()
                return result
            except CaiError:
                raise
            except Exception as problem:
                last, reason, code = server, reason_of(problem, server), getattr(problem, "status_code", 0)
                self._require_possible(server, code, reason)
                works = code == 429 or await self._works(server, self.loop.time())
            finally:
                server.busy -= 1
                self.losses.take(server, key)
                async with self.changed:
                    self.changed.notify_all()
            if code == 429:  # it answers, only later
                latest = max([begun, *(server.answered for server in self.servers)])
                if self.loop.time() - latest > WAIT:
                    await self._end(f"{server.url} has answered no request for {WAIT / 60:.0f} minutes ({reason})")
                    continue  # to the end
                await asyncio.sleep(random.uniform(1, 5))
            elif works and server.lost < started:  # if it was lost in the meantime, that was why the request failed
                tries += 1
                if tries >= TRIES or code in REFUSED:
                    return Failure(reason)
                if not code:  # the library pauses only before it repeats a request itself
                    await asyncio.sleep(2**tries * random.uniform(0.25, 0.5))
            elif self.losses.counts[key] >= TOO_OFTEN:
                return Failure(f"servers went down {TOO_OFTEN} times while they had it (the last time: {reason})")

    async def _least_busy(self, avoid: Server | None, key: object) -> Server:
        """The server for a request, counted as one of its requests. Waits while all are busy or down."""
        async with self.changed:
            while True:
                if self.ending:
                    raise self.ending
                free = [one for one in self.servers if one.can and one.busy < self.each and self.losses.takes(one, key)]
                if free:
                    server = min(free, key=lambda server: (server is avoid, server.busy))
                    server.busy += 1
                    self.losses.give(server, key)
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
                self._lose(server, problem)
            return server.can is not None

    async def _is_the_same(self, server: Server) -> bool:
        """Whether a server that has just answered is still the one that was inspected. It may be too busy to say so at once."""
        async with server.checking:
            begun = self.loop.time()
            while server.can and server.breaks > server.inspected:
                server.patient = True
                try:
                    await self._inspect(server)
                except Exception as problem:
                    busy = isinstance(problem, TimeoutError) or getattr(problem, "status_code", 0) in LATER
                    if not busy or self.loop.time() - begun > WAIT:
                        self._lose(server, problem)
                    await asyncio.sleep(random.uniform(1, 5) if busy else 0)
                finally:
                    server.patient = False
            return server.can is not None

    async def _inspect(self, server: Server) -> None:
        """Ask a server what it serves and can do. It must be the run's model, and do what the first server could at first.

        Otherwise its numbers, and even its prompts, would be of another kind than those before it.
        """
        wanted, context = self.first or (None, 0)
        await server.inspect(self.name, self.served, wanted, self.tokenizer)
        assert server.can
        if self.first and not wanted:  # another one was the first meanwhile
            server.can = None
            return await self._inspect(server)
        if server.context and server.context < context:
            server.can = None
            raise Garbage(f"its context of {server.context} tokens is smaller than the {context} of the run's first server")
        self.first = self.first or (server.can, server.context)
        self.served, server.answered = server.model, self.loop.time()

    def _lose(self, server: Server, problem: Exception) -> None:
        """Give a server no more requests until it answers again as it must."""
        what, reason = "cannot be used now" if _unfit(problem) else "does not answer", reason_of(problem, server)
        server.can, server.lost = None, self.loop.time()
        self.losses.blame(server)
        others = sum(one.can is not None for one in self.servers)
        then = f"the other {others} continue with its requests" if others else f"waiting for up to {WAIT / 60:.0f} minutes"
        streams.warn(f"{server.url} {what} ({reason}); {then}")
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
                server.can, before, reason = None, reason, reason_of(problem, server)
                if _unfit(problem) and reason != before:
                    streams.warn(f"{server.url} cannot be used now ({reason})")
                dark = not any(one.can for one in self.servers)
                if self.ending or (dark and self.loop.time() - max(one.lost for one in self.servers) > WAIT):
                    what = "could not be used" if _unfit(problem) else "has not answered"
                    return await self._end(f"{server.url} {what} for {WAIT / 60:.0f} minutes ({reason})")
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
                reason, code = reason_of(problem, server), getattr(problem, "status_code", 0)
                self._require_possible(server, code, reason)
                if isinstance(problem, ValueError) or (code and code not in LATER):
                    raise CaiError(f"{server.url} is no server for this run: {reason}") from None
                lost.append((server, problem))
        for server, why in lost:
            self._lose(server, why)
        for server in self.servers:
            if (can := server.can) and not can.exact and not can.echo:
                prompts = "takes token ids" if can.tokens else "takes no token ids, so it applies its own chat template"
                streams.say(f"{server.url} {prompts}; it shows the {can.top} most likely tokens where letters are asked for")
        async with self.changed:
            await self.changed.wait_for(lambda: self.ending or any(server.can for server in self.servers))
        if self.ending:
            raise self.ending
        model = Path(self.served).name
        if model not in (Path(self.name).name, Path(self.name).resolve().name):
            streams.warn(f"the server calls its model '{self.served}', and -m is '{self.name}': make sure that they are the same")


def _unfit(problem: Exception) -> bool:
    """Whether a server answered a small request, but not as it must."""
    return isinstance(problem, Garbage) or getattr(problem, "status_code", 0) in REFUSED
