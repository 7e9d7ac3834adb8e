"""The HTTP client of the server engine: the library `openai`, with less freedom for the server and for the environment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from cai_cli.engines.http_api import Garbage
from cai_cli.errors import InputError

MAX_REPLY = 64 * 2**20
"""The longest reply accepted, in bytes: the log probabilities of a long prompt take some megabytes."""


async def _clean(key: str, request: Any) -> None:
    """Take out what `openai` adds from the environment: the names, and perhaps the key, of an account at OpenAI."""
    for name in [name for name in request.headers if name.startswith("openai-")]:
        del request.headers[name]
    request.headers["accept-encoding"] = "identity"  # a packed reply could unpack to any size
    if key:
        request.headers["authorization"] = f"Bearer {key}"
    else:
        request.headers.pop("authorization", None)


def client(url: str, key: str, broke: Callable[[], None]) -> Any:
    """A client for a base URL, without a timeout of its own. `key`: the API key, or empty. InputError without the library.

    `broke`: called when a connection broke, or a proxy had no server behind it. The library may then ask again by itself, and get
    an answer from a server that has been started anew.
    """
    try:
        from httpx2 import AsyncByteStream  # what `openai` uses
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    except ImportError:
        raise InputError("--engine server needs the library `openai`: pip install 'cai-cli[server]'") from None

    class Bounded(AsyncByteStream):
        """A reply's bytes, up to `MAX_REPLY`."""

        def __init__(self, stream: Any) -> None:
            self.stream, self.left = stream, MAX_REPLY

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self.stream:
                self.left -= len(part)
                if self.left < 0:
                    raise Garbage(f"a reply of more than {MAX_REPLY // 2**20} MiB")
                yield part

        async def aclose(self) -> None:
            await self.stream.aclose()

    async def bound(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Garbage("a packed reply, which was not asked for")
        response.stream = Bounded(response.stream)
        if response.status_code in (502, 503, 504):
            broke()

    class Watched(DefaultAsyncHttpxClient):
        """Tells of each connection that breaks."""

        async def send(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().send(*args, **options)
            except Exception:
                broke()
                raise

    # A redirect could send the key and the prompts to another host.
    http: Any = Watched(follow_redirects=False, event_hooks={"request": [partial(_clean, key)], "response": [bound]})
    return AsyncOpenAI(base_url=url, api_key=key or "none", timeout=None, http_client=http)
