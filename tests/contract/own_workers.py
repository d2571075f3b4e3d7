"""What our own workers do beyond the contract of every engine: refusals by name and code, a drain by request."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from typing import Any, Protocol

import openai

from lightship.engines.process import WorkerProcess

DIGEST = "sha256:" + "ab" * 32
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "hi"}


class AskedWorker(Protocol):
    """A running worker, asked over HTTP."""

    process: WorkerProcess

    @property
    def client(self) -> openai.OpenAI:
        """The official client."""
        ...

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one answer."""
        ...


@dataclass(frozen=True)
class BadBody:
    """A body and what the refusal must say."""

    path: str
    body: object
    status: int
    param: str | None
    code: str | None


_UNSUPPORTED = "unsupported_parameter"
_COMPLETIONS, _CHAT = "/v1/completions", "/v1/chat/completions"
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
_IMAGE = {"role": "user", "content": [{"type": "image_url"}]}
BAD_BODIES = {
    "malformed": BadBody(_COMPLETIONS, b'{"model": ', 400, None, "invalid_json"),
    "unknown-field": BadBody(_COMPLETIONS, {**TEXT, "temprature": 1}, 400, "temprature", "unknown_parameter"),
    "no-prompt": BadBody(_COMPLETIONS, {"model": "tiny"}, 400, "prompt", "missing_parameter"),
    "wrong-type": BadBody(_COMPLETIONS, {**TEXT, "max_tokens": "many"}, 400, "max_tokens", "invalid_type"),
    "no-model": BadBody(_CHAT, {**CHAT, "model": "other"}, 404, "model", "model_not_found"),
    "tools": BadBody(_CHAT, {**CHAT, "tools": [{}]}, 400, "tools", _UNSUPPORTED),
    "bias": BadBody(_COMPLETIONS, {**TEXT, "logit_bias": {"5": 1}}, 400, "logit_bias", _UNSUPPORTED),
    "nul": BadBody(_COMPLETIONS, {**TEXT, "prompt": "a\x00b"}, 400, "prompt", "invalid_prompt"),
    "image": BadBody(_CHAT, {"model": "tiny", "messages": [_IMAGE]}, 400, "messages[0].content[0].type", _UNSUPPORTED),
    "too-long": BadBody(
        _CHAT,
        {"model": "tiny", "messages": [{"role": "user", "content": "a dog and " * 2000}]},
        400,
        "messages",
        "context_length_exceeded",
    ),
    "too-many-tokens": BadBody(_COMPLETIONS, {**TEXT, "max_tokens": 100_000}, 400, "prompt", "context_length_exceeded"),
    "json-mode": BadBody(
        _CHAT, {**CHAT, "response_format": {"type": "json_object"}}, 400, "response_format", _UNSUPPORTED
    ),
    "schema": BadBody(_CHAT, {**CHAT, "response_format": _SCHEMA}, 400, "response_format", _UNSUPPORTED),
    "tool-choice": BadBody(_CHAT, {**CHAT, "tool_choice": "required"}, 400, "tool_choice", _UNSUPPORTED),
    "functions": BadBody(_CHAT, {**CHAT, "functions": [{"name": "f"}]}, 400, "functions", _UNSUPPORTED),
    "audio": BadBody(_CHAT, {**CHAT, "audio": {"voice": "v"}}, 400, "audio", _UNSUPPORTED),
    "guided": BadBody(_CHAT, {**CHAT, "guided_json": {}}, 400, "guided_json", "unknown_parameter"),
    "many": BadBody(_CHAT, {**CHAT, "n": 17}, 400, "n", None),
    "best-of": BadBody(_COMPLETIONS, {**TEXT, "best_of": 3}, 400, "best_of", _UNSUPPORTED),
    "suffix": BadBody(_COMPLETIONS, {**TEXT, "suffix": "!"}, 400, "suffix", _UNSUPPORTED),
    "embeddings": BadBody("/v1/embeddings", {"model": "tiny", "input": "hi"}, 404, None, "unsupported_path"),
    "tokenize-both": BadBody("/tokenize", {"prompt": "a", "messages": CHAT["messages"]}, 400, "prompt", None),
    "tokenize-template": BadBody(
        "/v1/tokenize", {"prompt": "a", "chat_template": "x"}, 400, "chat_template", _UNSUPPORTED
    ),
    "detokenize-far": BadBody("/v1/detokenize", {"tokens": [10**12]}, 400, "tokens", None),
    "too-big": BadBody(_COMPLETIONS, {**TEXT, "user": "x" * 300_000}, 413, None, "payload_too_large"),
}


def assert_refused(worker: AskedWorker, case: BadBody) -> None:
    """The refusal names the parameter and has the code."""
    status, headers, body = worker.ask("POST", case.path, case.body)
    error = json.loads(body)["error"]
    assert (status, error["param"]) == (case.status, case.param), error
    assert case.code is None or error["code"] == case.code
    assert headers["x-request-id"]


def assert_other_requests_get_error_objects(worker: AskedWorker) -> None:
    """Unknown paths, other methods, other types of content; and the id of a request comes back."""
    assert worker.ask("GET", "/v1/nothing")[0] == 404
    status, headers, body = worker.ask("GET", "/v1/completions")
    assert (status, headers["allow"], json.loads(body)["error"]["code"]) == (405, "POST", "method_not_allowed")
    status, _, body = worker.ask("POST", "/v1/completions", TEXT, {"content-type": "text/plain"})
    assert (status, json.loads(body)["error"]["code"]) == (415, "unsupported_media_type")
    _, headers, _ = worker.ask("POST", "/v1/completions", {**TEXT, "max_tokens": 1}, {"x-request-id": "job-17"})
    assert (headers["x-request-id"], headers["x-served-variant"]) == ("job-17", DIGEST)
    _, headers, _ = worker.ask("GET", "/health/ready", headers={"x-request-id": "bad id"})
    assert headers["x-request-id"] != "bad id"
    replies = [worker.ask("POST", path, {"messages": CHAT["messages"]})[2] for path in ("/tokenize", "/v1/tokenize")]
    assert replies[0] == replies[1]


def assert_drains_when_asked(worker: AskedWorker) -> None:
    """`POST /drain` refuses what comes and finishes what runs; a SIGTERM then ends the worker. Its last test."""
    stream_fields: dict[str, Any] = {"max_tokens": 300, "stream": True, "extra_body": {"ignore_eos": True}}
    with worker.client.completions.create(model="tiny", prompt="Once upon a time", **stream_fields) as stream:
        first = next(stream)
        assert json.loads(worker.ask("POST", "/drain")[2])["status"] == "draining"
        assert worker.ask("GET", "/health/ready")[0] == 503
        assert worker.ask("GET", "/health/live")[0] == 200
        status, headers, _ = worker.ask("POST", "/v1/completions", TEXT)
        assert (status, headers["x-reject-reason"]) == (503, "shutdown")
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGTERM)
        rest = list(stream)
    assert first.choices[0].text
    assert rest[-1].choices[0].finish_reason == "length"
