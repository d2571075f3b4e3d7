"""A scoring endpoint in a thread of this process, so that the command runs as a user runs it."""

from __future__ import annotations

import json
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class WordModel:
    """Tokens are words with the space before them, after one BOS; every token has -1, those in `likely` -0.1."""

    likely: frozenset[str] = frozenset()
    variant: str = "sha256:one"
    num_requests: int = 0

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a completion request: the prompt scored, or one generated word."""
        self.num_requests += 1
        if not body.get("echo"):
            choice = {"text": " sea", "finish_reason": "length"}
            return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}
        tokens = ["<s>", *re.findall(r"\s?\S+|\s", body["prompt"])]
        names = [f"token_id:{zlib.crc32(token.encode()) % 2**20}" for token in tokens]
        values = [None, *(self._logprob(token, position) for position, token in enumerate(tokens[1:]))]
        tops = [None, *({name: value} for name, value in zip(names[1:], values[1:], strict=True))]
        # alternatives beyond the token itself, as many as were asked for
        for top in tops[1:]:
            assert top is not None
            top.update({f"token_id:{2**21 + i}": -9.0 - i for i in range(body["logprobs"] - 1)})
        offsets = [0]
        for token in tokens[1:]:
            offsets.append(offsets[-1] + len(token) * (token != "<s>"))
        logprobs = {"tokens": names, "token_logprobs": values, "top_logprobs": tops}
        return {
            "model": "m",
            "choices": [{"text": body["prompt"], "logprobs": logprobs}],
            "usage": {"prompt_tokens": len(tokens), "completion_tokens": 0},
        }

    def _logprob(self, token: str, position: int) -> float:
        return -0.1 if token in self.likely else -1.0 - 0.01 * (position % 3)


@contextmanager
def serving(model: WordModel) -> Iterator[str]:
    """Its base URL while it runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one segment

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/v1/completions":
                self._send(200, model.reply(body))
            else:
                self._send(404, {"error": {"message": "no such route", "code": "not_found"}})

        def do_GET(self) -> None:
            self._send(404, {"error": {"message": "no such route", "code": "not_found"}})

        def _send(self, status: int, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.send_header("x-served-variant", model.variant)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def word_model() -> type[WordModel]:
    """The class, since test modules cannot import this file."""
    return WordModel


@pytest.fixture
def serve() -> Iterator[Callable[[WordModel], str]]:
    """Serves models until the test ends."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda model: stack.enter_context(serving(model))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals go to a folder of the test's own, and the spec of whoever runs it plays no part."""
    monkeypatch.setenv("LIGHTSHIP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
