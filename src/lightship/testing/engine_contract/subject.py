"""The server that is checked, as its checks see it: plain HTTP and the declared features and quirks."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from lightship.engines.base import EngineFeature, EngineQuirk
from lightship.gateway.routing.engine_metrics import EngineGauges, parse_engine_metrics

PROMPT = "Once upon a time there was a little girl"


class ContractError(AssertionError):
    """The engine does not do what it has to, or what it declares."""


def expect(is_so: object, what: str) -> None:
    """Returns when it is so. Raises: ContractError: it is not."""
    if not is_so:
        raise ContractError(what)


@dataclass(frozen=True)
class Answer:
    """One answer, whole."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object in its body. Raises: ContractError: there is none."""
        try:
            found = json.loads(self.content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ContractError(f"no JSON object: {self.status} {self.content[:300]!r}")
        return found


@dataclass(frozen=True)
class Stream:
    """A streamed answer: its events in order, and whether `[DONE]` ended it."""

    events: tuple[dict[str, Any], ...]
    is_done: bool

    @property
    def texts(self) -> list[str]:
        """The text of each event that has any, of completions and chats alike."""
        found = []
        for event in self.events:
            for choice in event["choices"]:
                text = choice.get("text") if "text" in choice else choice["delta"].get("content")
                if text:
                    found.append(text)
        return found

    @property
    def finish_reasons(self) -> list[str]:
        """How its choices ended."""
        reasons = (choice.get("finish_reason") for event in self.events for choice in event["choices"])
        return [reason for reason in reasons if reason is not None]


@dataclass(frozen=True)
class EngineUnderTest:
    """A running server.

    Args:
        base_url: Its address, without `/v1`.
        model: What it calls its model.
        features: What it says it can do; the rest it has to refuse.
        quirks: Where it says it does something else than the API asks for.
        adapters: Names of its LoRA adapters.
        goes_on: Fields that keep it from ending an answer before `max_tokens`.
        headers: Sent with each request: an API key.
        timeout_s: Longest time for one answer.
    """

    base_url: str
    model: str
    features: frozenset[EngineFeature]
    quirks: frozenset[EngineQuirk] = frozenset()
    adapters: tuple[str, ...] = ()
    goes_on: Mapping[str, Any] = field(default_factory=lambda: {"ignore_eos": True})
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 60.0

    def has(self, one: EngineFeature | EngineQuirk) -> bool:
        """Whether it declares this feature or quirk."""
        return one in self.features or one in self.quirks

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """One request; a body that is not bytes is sent as JSON. Raises: OSError, http.client.HTTPException."""
        with self._asked(method, path, body) as reply:
            headers = {name.lower(): value for name, value in reply.getheaders()}
            return Answer(reply.status, headers, reply.read())

    def complete(self, **fields: Any) -> dict[str, Any]:
        """The answer to a completion. Raises: ContractError: it is not answered with 200."""
        return self._answered("/v1/completions", {"model": self.model, "prompt": PROMPT, **fields})

    def chat(self, **fields: Any) -> dict[str, Any]:
        """The answer to a chat completion. Raises: ContractError."""
        messages = [{"role": "user", "content": PROMPT}]
        return self._answered("/v1/chat/completions", {"model": self.model, "messages": messages, **fields})

    def text(self, **fields: Any) -> str:
        """The first text of a completion. Raises: ContractError."""
        return str(self.complete(**fields)["choices"][0]["text"])

    def stream(self, path: str, **fields: Any) -> Stream:
        """A streamed answer, read to its end. Raises: ContractError: it is none."""
        with self.streaming(path, **fields) as events:
            found = list(events)
        return Stream(tuple(one for one in found if one is not None), is_done=found[-1:] == [None])

    @contextmanager
    def streaming(self, path: str, **fields: Any) -> Iterator[Iterator[dict[str, Any] | None]]:
        """The events of a streamed answer as they come, None for `[DONE]`. Leaving early closes the connection.

        Raises: ContractError: it is no stream, or one of its events is no JSON.
        """
        prompt = {"messages": [{"role": "user", "content": PROMPT}]} if "chat" in path else {"prompt": PROMPT}
        with self._asked("POST", path, {"model": self.model, **prompt, "stream": True, **fields}) as reply:
            expect(reply.status == 200, f"a stream was answered with {reply.status}")
            kind = reply.getheader("content-type") or ""
            expect(kind.startswith("text/event-stream"), f"a stream came as {kind!r}")
            yield _events(reply)

    def gauges(self) -> EngineGauges:
        """What it says of its load. Raises: ContractError: nothing that a gateway understands."""
        answer = self.ask("GET", "/metrics")
        expect(answer.status == 200, f"/metrics was answered with {answer.status}")
        found = parse_engine_metrics(answer.content)
        if found is None:
            raise ContractError("/metrics has no gauge of requests under a name that the gateway knows")
        return found

    def num_requests(self) -> int:
        """Requests it says it has. Raises: ContractError."""
        gauges = self.gauges()
        return gauges.num_running + gauges.num_waiting

    def _answered(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.ask("POST", path, body)
        expect(answer.status == 200, f"{path} was answered with {answer.status}: {answer.content[:300]!r}")
        return answer.document

    @contextmanager
    def _asked(self, method: str, path: str, body: object) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(self.base_url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_s)
        try:
            content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            headers = {"content-type": "application/json", **self.headers}
            connection.request(method, f"{parts.path.rstrip('/')}{path}", content, headers)
            reply = connection.getresponse()
            try:
                yield reply
            finally:
                reply.close()
        finally:
            connection.close()


def _events(reply: http.client.HTTPResponse) -> Iterator[dict[str, Any] | None]:
    for line in reply:
        if not line.startswith(b"data: "):
            continue
        content = line.removeprefix(b"data: ").strip()
        if content == b"[DONE]":
            yield None
            continue
        try:
            yield json.loads(content)
        except ValueError as error:
            raise ContractError(f"an event is no JSON: {content[:300]!r}") from error


def wait_until(is_so: Callable[[], bool], *, timeout_s: float, what: str) -> float:
    """Seconds until it was so. Raises: ContractError: it was not in time."""
    started_s = time.monotonic()
    while not is_so():
        expect(time.monotonic() - started_s < timeout_s, f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - started_s
