"""Real OpenAI-compatible servers for tests: a tiny model behind HTTP, with the troubles that servers have.

python -m tests.servers MODEL PORT     a server of a tiny model, deterministic: float32, one request at a time
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cai_cli.engines.draws import ARGUMENT
from tests.processes import environment
from tests.tiny import ROOT

Body = dict[str, Any]
PLAIN = {"model", "prompt", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "top_logprobs", "echo"}
"""What OpenAI's own API takes."""


class Refused(Exception):
    """A request that the server refuses: status code and message."""


class TinyApi:
    """A model behind the API. `style`: "vllm" takes all that vLLM takes, "vllm-old" all but `logprob_token_ids`, "plain" takes token
    ids and no more than OpenAI's API, "chat" has only a chat that cannot continue an answer, "vllm-chat" has only a chat that can."""

    context = 4096
    draws = False
    """Whether it has our draws."""

    def __init__(self, folder: str, style: str = "vllm", name: str | None = None) -> None:
        import torch

        from cai_cli.engines import models
        from cai_cli.engines.transformers import TransformersEngine

        self.style, self.name, self.lock = style, name or folder, threading.Lock()
        self.tokenizer: Any = models.load_tokenizer(Path(folder))
        self.engine = TransformersEngine(Path(folder), self.tokenizer, torch.float32, 1)

    def reply(self, path: str, body: Body) -> Any:
        """The reply to a request. Refused says why there is none."""
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": self.name, "root": self.name, "max_model_len": self.context}]}
        chat = path == "/v1/chat/completions"
        if path not in ("/v1/completions", "/v1/chat/completions") or chat != self.style.endswith("chat"):
            raise Refused(404, "no such path")
        if body["model"] != self.name:
            raise Refused(404, f"no model {body['model']}")
        if not self.style.startswith("vllm") and (unknown := body.keys() - PLAIN):
            raise Refused(400, f"unknown: {unknown}")
        most = 5 if self.style == "plain" else 20
        if max(int(body.get("logprobs") or 0), int(body.get("top_logprobs") or 0)) > most:
            raise Refused(400, f"at most {most} log probabilities")
        if len(body.get("stop", ())) > 4:
            raise Refused(400, "at most 4 stop strings")
        if body.get("echo") and self.style not in ("vllm", "vllm-old"):
            raise Refused(400, "no echo")
        if "logprob_token_ids" in body and self.style == "vllm-old":
            raise Refused(400, "unknown: logprob_token_ids")
        if self.draws and body.get("vllm_xargs", {}).get(ARGUMENT, [0])[0] < 0:
            raise Refused(400, "a seed below 0")
        ids = self._rendered(body) if chat else body["prompt"]
        with self.lock:
            return self._chat(ids, body) if chat else self._completion(ids, body)

    def _rendered(self, body: Body) -> list[int]:
        more = bool(body.get("continue_final_message"))
        made = {"continue_final_message": more, "add_generation_prompt": not more, "return_dict": False}
        return list(self.tokenizer.apply_chat_template(body["messages"], **made))

    def _logprobs(self, ids: list[int]) -> Any:
        """[prompt, vocabulary]: log probabilities of the next token."""
        import torch

        with torch.inference_mode():
            return self.engine.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def _generated(self, ids: list[int], body: Body) -> Any:
        from cai_cli.engines.base import Request

        seed, heat, top_p = body.get("seed") or 0, body["temperature"], body.get("top_p", 1.0)
        if self.draws and "vllm_xargs" in body:
            seed, heat, top_p = body["vllm_xargs"][ARGUMENT]
        request = Request("generate", ids, "", seed, body["max_tokens"], heat, top_p, tuple(body.get("stop", ())))
        [(_, done)] = self.engine.run(iter([(0, request)]))
        return done

    def _most_likely(self, ids: list[int], count: int) -> list[tuple[int, float]]:
        values, tokens = self._logprobs(ids)[-1].topk(count)
        return list(zip(tokens.tolist(), values.tolist(), strict=True))

    def _completion(self, ids: list[int], body: Body) -> Any:
        done, logprobs = self._generated(ids, body), None
        if body.get("echo"):
            rows = self._logprobs(ids)
            logprobs = {"token_logprobs": [None, *(rows[i, t].item() for i, t in enumerate(ids[1:])), -1.0]}
        elif body.get("logprobs") is not None:
            named = body.get("logprob_token_ids")
            row = self._logprobs(ids)[-1]
            shown = [(t, row[t].item()) for t in named] if named else self._most_likely(ids, body["logprobs"])
            spell = (
                (lambda t: f"token_id:{t}") if body.get("return_tokens_as_token_ids") else lambda t: self.tokenizer.decode([t])
            )
            logprobs = {"top_logprobs": [{spell(token): value for token, value in shown}]}
        choice = {"text": done.text, "finish_reason": done.finish, "logprobs": logprobs}
        if body.get("return_token_ids"):
            choice["token_ids"] = list(done.tokens)
        return _with_usage(choice, ids, done)

    def _chat(self, ids: list[int], body: Body) -> Any:
        done = self._generated(ids, body)
        choice = {"message": {"role": "assistant", "content": done.text}, "finish_reason": done.finish}
        if body.get("logprobs"):
            top = [{"token": self.tokenizer.decode([t]), "logprob": v} for t, v in self._most_likely(ids, body["top_logprobs"])]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return _with_usage(choice, ids, done)


def _with_usage(choice: Body, ids: list[int], done: Any) -> Body:
    return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": done.completion_tokens}}


Trouble = Callable[[int, str, Body], Any]
"""From (number of the request, path, body) to None, or what the server does instead of answering: see `Site`."""


class Site:
    """An API on a port of this machine, served by threads of this process.

    A trouble is (status, headers, bytes), "half" (of the true answer), "hang" (until the site is closed), or "reset".
    """

    def __init__(self, api: TinyApi, trouble: Trouble = lambda *_: None, slow: float = 0.0, port: int | None = None) -> None:
        self.api, self.trouble, self.slow, self.port = api, trouble, slow, port or free_port()
        self.seen: list[tuple[str, dict[str, str], Body]] = []
        """(path, headers in lower case, body) of each POST."""
        self.here, self.most, self.lock = 0, 0, threading.Lock()
        """How many POSTs it has now, and the most that it had."""
        self.closing = threading.Event()
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def open(self) -> None:
        self.closing.clear()
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections from now on, and reset those that there are."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.answer({})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            site.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            with site.lock:
                site.here += 1
                site.most = max(site.most, site.here)
            try:
                self.answer(body)
            finally:
                with site.lock:
                    site.here -= 1

        def answer(self, body: Body) -> None:
            api, mine = site.api, site.server
            if site.closing.wait(site.slow):
                return self.reset()
            done = site.trouble(len(site.seen), self.path, body)
            if done == "hang":
                site.closing.wait()
            if done in ("hang", "reset"):
                return self.reset()
            if isinstance(done, tuple):
                return self.send(*done)
            try:
                status, reply = 200, api.reply(self.path, body)
            except Refused as refused:
                status, reply = refused.args[0], {"error": {"message": refused.args[1]}}
            if site.closing.is_set() or site.server is not mine:  # a server that has ended answers no more
                return self.reset()
            data = json.dumps(reply).encode()
            self.send(status, {}, data[: len(data) // 2] if done == "half" else data, len(data))

        def send(self, status: int, headers: dict[str, str], data: bytes, length: int | None = None) -> None:
            self.send_response(status)
            length = len(data) if length is None else length
            for name, value in {"content-type": "application/json", "content-length": str(length), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = self.close_connection or length != len(data) or site.closing.is_set()

        def reset(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


@contextmanager
def site(api: TinyApi, trouble: Trouble = lambda *_: None, slow: float = 0.0) -> Iterator[Site]:
    """A `Site` that is closed at the end."""
    made = Site(api, trouble, slow)
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Process:
    """A server in a process of its own, which can be killed and started again on its port."""

    def __init__(self, *command: str, port: int, seconds: float = 300.0, **variables: str) -> None:
        """`variables` of its environment."""
        self.command, self.port, self.seconds, self.variables = command, port, seconds, variables
        self.url = f"http://127.0.0.1:{port}/v1"

    def start(self, wait: bool = True) -> None:
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=environment() | self.variables,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + self.seconds
        while wait:
            try:
                urllib.request.urlopen(f"{self.url}/models", timeout=5).read()
                return
            except OSError:
                assert self.process.poll() is None, f"{self.command} ended"
                assert time.monotonic() < deadline, f"{self.command} does not start"
                time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, to the processes that it started too."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def tiny_server(model: str, port: int | None = None) -> Iterator[Process]:
    """A running server process of a tiny model. Equal requests get equal answers, also from another such server."""
    port = port or free_port()
    made = Process(sys.executable, "-m", "tests.servers", model, str(port), port=port)
    made.start()
    try:
        yield made
    finally:
        made.kill()


if __name__ == "__main__":
    Site(TinyApi(sys.argv[1]), port=int(sys.argv[2]))
    threading.Event().wait()
