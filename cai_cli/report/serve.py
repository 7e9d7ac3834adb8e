"""Serves a report to a browser on this machine, and makes it again when a file of the run has changed."""

from __future__ import annotations

import html
import http.server
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from cai_cli.errors import CaiError

_READ = ("*.jsonl", "*.jsonl.gz", "*.json", "*.partial")


def version(run: Path) -> str:
    """A hash of the sizes and times of the files that a report reads."""
    found = sorted({path for pattern in _READ for path in run.rglob(pattern) if "checkpoints" not in path.parts})
    digest = sha256()
    for path in found:
        try:
            state = path.stat()
        except FileNotFoundError:  # renamed meanwhile
            continue
        digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def server(run: Path, build: Callable[[str], str], port: int) -> http.server.ThreadingHTTPServer:
    """A server of the report on 127.0.0.1. `build` makes the page of a version. CaiError if the port is not free.

    It answers only requests that name this machine as their host, so that a page from elsewhere cannot read the run through a
    name of its own.
    """
    made: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if (self.headers.get("Host") or "").rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
                return self.send_error(403, "Only for this machine")
            now = version(run)
            if self.path == "/version":
                return self._answer(now.encode(), "text/plain")
            if self.path != "/":
                return self.send_error(404)
            try:
                if now not in made:
                    page = build(now).encode()
                    made.clear()
                    made[now] = page
            except Exception as problem:  # of any kind: a step may be writing what was read
                again = '<!doctype html><html lang="en"><title>cai report</title><meta http-equiv="refresh" content="3">'
                return self._answer(f"{again}<p>{html.escape(str(problem))}</p>".encode(), "text/html", 500)
            self._answer(made[now], "text/html")

        def _answer(self, body: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as problem:
        raise CaiError(f"--port {port}: {(problem.strerror or str(problem)).lower()}; give another one") from None
