"""What has come of one streamed answer: server-sent events out of bytes, and of each only what a measurement needs.

Every event is decoded, none is guessed from its shape: a typed decoder that skips what nobody asks for takes under a
microsecond, which is less than the socket's share. `wire.sse` reads streams for programs that pass them on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from lightship.evaluation.performance.records import ErrorKind

# Bytes of an error body that are kept for the message.
_MAX_DETAIL_BYTES = 400
# Bytes of one unfinished event. Far above any event of a completion, far below what would hurt with 2,000 streams.
_MAX_EVENT_BYTES = 2**20
_HTTP_OK = 200
_NEWLINE = 0x0A


class EndpointError(Exception):
    """A request that gave no complete answer, already named."""

    def __init__(self, kind: ErrorKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class EventScanner:
    r"""Payloads of server-sent events from a stream of bytes, whatever the chunk borders and line ends.

    The usual chunk, one whole event of one line, takes a short way; anything else goes line by line. A `\r` at the end
    of a chunk waits for the next one, because it may be half of a `\r\n`.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Payloads of the events that `chunk` completes, `[DONE]` as `b"[DONE]"`; comments are left out.

        Raises: EndpointError: one event is over 1 MiB.
        """
        if not self._rest:
            # The first line end is the last but one byte: one line, and a blank one if the last byte ends it.
            end = len(chunk) - 2
            if chunk.find(b"\n") == end and chunk[-1] == _NEWLINE and chunk[:6] == b"data: " and b"\r" not in chunk:
                return [chunk[6:end]]
        return self._feed_lines(self._rest + chunk)

    def end(self) -> list[bytes]:
        r"""Payloads of events that only the end of the stream completes: those before a last `\r`."""
        if not self._rest.endswith(b"\r"):
            return []
        return self._feed_lines(self._rest[:-1] + b"\n")

    @property
    def has_partial_event(self) -> bool:
        """Whether bytes of an unfinished event are left."""
        return bool(self._rest.strip())

    def _feed_lines(self, content: bytes) -> list[bytes]:
        held = b""
        if content.endswith(b"\r"):
            content, held = content[:-1], b"\r"
        if b"\r" in content:
            content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, rest = content.split(b"\n\n")
        self._rest = rest + held
        if len(self._rest) > _MAX_EVENT_BYTES:
            raise EndpointError(ErrorKind.MALFORMED, f"a server-sent event is over {_MAX_EVENT_BYTES} bytes")
        payloads = [_payload(event) for event in events]
        return [payload for payload in payloads if payload is not None]


def _payload(event: bytes) -> bytes | None:
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


class _CachedTokens(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Token counts as the server states them."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _CachedTokens | None = None

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that the server found in its prefix cache; 0 where it does not say."""
        return (self.prompt_tokens_details.cached_tokens or 0) if self.prompt_tokens_details else 0


class _Choice(msgspec.Struct, gc=False):
    text: str = ""
    finish_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Any = None


_EVENT_DECODER = msgspec.json.Decoder(_Event)


class AnswerReading:
    """One answer as far as it has come: arrival times of output, token counts, the words of a failure.

    Args:
        now_s: The clock of the record.
        loop_now_s: The event loop's clock, for time limits.

    Concurrency: belongs to one request; called from the event loop only.
    """

    __slots__ = (
        "_detail",
        "_is_done",
        "_loop_now_s",
        "_now_s",
        "_scanner",
        "_status",
        "last_arrival_s",
        "times_s",
        "usage",
    )

    def __init__(self, now_s: Callable[[], float], loop_now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._loop_now_s = loop_now_s
        self._scanner = EventScanner()
        self._status = 0
        self._detail = b""
        self._is_done = False
        self.times_s: list[float] = []
        self.usage: Usage | None = None
        self.last_arrival_s: float | None = None

    def start(self, status: int) -> None:
        """The headers are there."""
        self._status = status

    def receive(self, chunk: bytes) -> None:
        """Takes a part of the body.

        Raises: EndpointError: the answer is not a stream of completion events, or enough of an error body is there.
        """
        self.last_arrival_s = self._loop_now_s()
        now_s = self._now_s()
        if self._status != _HTTP_OK:
            self._detail += chunk
            if len(self._detail) >= _MAX_DETAIL_BYTES:
                raise self._status_error()
            return
        for payload in self._scanner.feed(chunk):
            self._take(payload, now_s)

    def finish(self) -> None:
        """The body has ended.

        Raises: EndpointError: the answer is not complete and countable.
        """
        if self._status != _HTTP_OK:
            raise self._status_error()
        for payload in self._scanner.end():
            self._take(payload, self._now_s())
        if not self._is_done or self._scanner.has_partial_event:
            raise EndpointError(ErrorKind.TRUNCATED, "the stream ended without [DONE]")
        if self.usage is None:
            raise EndpointError(ErrorKind.NO_USAGE, "no usage chunk although stream_options.include_usage was set")
        if not self.times_s or self.usage.completion_tokens < 1:
            raise EndpointError(ErrorKind.NO_TOKENS, "the answer has no output tokens")

    def _take(self, payload: bytes, now_s: float) -> None:
        if payload == b"[DONE]":
            self._is_done = True
            return
        try:
            event = _EVENT_DECODER.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EndpointError(ErrorKind.MALFORMED, f"not a completion event: {payload[:80]!r} ({error})") from error
        if event.error is not None:
            raise EndpointError(ErrorKind.ERROR_EVENT, _shortened(msgspec.json.encode(event.error)))
        self.usage = event.usage or self.usage
        # A last event with a finish reason and no text carries no token; a token may well have no text of its own.
        for choice in event.choices:
            if choice.text or choice.finish_reason is None or not self.times_s:
                self.times_s.append(now_s)
                break

    def _status_error(self) -> EndpointError:
        return EndpointError(ErrorKind.STATUS, f"HTTP {self._status}: {_shortened(self._detail)}")


def _shortened(body: bytes) -> str:
    return body[:_MAX_DETAIL_BYTES].decode("utf-8", "replace")
