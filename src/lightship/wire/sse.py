"""Server-sent events as the OpenAI API uses them: one `data:` line per event, a blank line, `[DONE]` last.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

DONE = b"data: [DONE]\n\n"
CONTENT_TYPE = "text/event-stream; charset=utf-8"


def data_event(payload: bytes) -> bytes:
    """One event; `payload` is JSON on a single line."""
    return b"data: " + payload + b"\n\n"


def comment(text: str) -> bytes:
    """A line clients ignore; keeps a connection alive."""
    return b": " + text.encode() + b"\n\n"


class SseDecoder:
    """Splits a byte stream into event payloads, whatever the chunk borders.

    The buffer is bounded: an event over `max_event_bytes` raises ValueError.
    """

    def __init__(self, *, max_event_bytes: int = 8 * 2**20) -> None:
        self._buffer = bytearray()
        self._max_event_bytes = max_event_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """Payloads of the events completed by `chunk`, `[DONE]` included as `b"[DONE]"`; comments are left out."""
        self._buffer += chunk.replace(b"\r\n", b"\n")
        *events, rest = self._buffer.split(b"\n\n")
        if len(rest) > self._max_event_bytes:
            raise ValueError(f"a server-sent event is over {self._max_event_bytes} bytes")
        self._buffer = bytearray(rest)
        payloads = [self._payload(bytes(event)) for event in events]
        return [payload for payload in payloads if payload is not None]

    @property
    def has_partial_event(self) -> bool:
        """Whether bytes of an unfinished event are left."""
        return bool(self._buffer.strip())

    @staticmethod
    def _payload(event: bytes) -> bytes | None:
        lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        return b"\n".join(lines) if lines else None
