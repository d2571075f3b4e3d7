"""Server-sent events as the OpenAI API uses them: one `data:` line per event, a blank line, `[DONE]` last.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

DONE = b"data: [DONE]\n\n"
CONTENT_TYPE = "text/event-stream; charset=utf-8"


def data_event(payload: bytes) -> bytes:
    """One event; `payload` is JSON on a single line."""
    return b"data: " + payload + b"\n\n"


def named_event(name: str, payload: bytes) -> bytes:
    """One event with a name, as `/v1/responses` sends them."""
    return b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n"


def comment(text: str) -> bytes:
    """A line clients ignore; keeps a connection alive."""
    return b": " + text.encode() + b"\n\n"


class EventTooLargeError(ValueError):
    """One event of a stream is over the limit."""


class EventSplitter:
    """Cuts a stream that comes in pieces of any size into its events.

    Args:
        limit_bytes: Of one event; a stream without a blank line must not fill the memory.
    """

    __slots__ = ("_limit_bytes", "_num_bytes", "_pieces", "_tail")

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: list[bytes] = []
        self._num_bytes = 0
        self._tail = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        r"""The data of each event that is now complete; comments and events without data have none.

        Raises: EventTooLargeError: the event that is not complete yet is over the limit.

        >>> splitter = EventSplitter(limit_bytes=100)
        >>> splitter.feed(b'data: {"a"'), splitter.feed(b':1}\n\n: ping\n\ndata: [DONE]\r\n\r\n')
        ([], [b'{"a":1}', b'[DONE]'])
        """
        border = self._tail + chunk
        self._tail = border[-3:]
        self._pieces.append(chunk)
        self._num_bytes += len(chunk)
        if not (b"\n\n" in border or b"\n\r\n" in border or b"\r\r" in border):
            if self._num_bytes > self._limit_bytes:
                raise EventTooLargeError(f"an event is over the limit of {self._limit_bytes} bytes")
            return []
        text, held = b"".join(self._pieces), b""
        if b"\r" in text:
            held = b"\r" if text.endswith(b"\r") else b""  # half of a line's end, perhaps
            text = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, rest = text.split(b"\n\n")
        self._pieces, self._num_bytes = [rest, held], len(rest) + len(held)
        return [data for data in map(event_data, events) if data is not None]


def event_data(event: bytes) -> bytes | None:
    r"""The data of one event without its blank line, or None where it has none.

    >>> event_data(b"event: x\ndata: one\ndata:two"), event_data(b": ping")
    (b'one\ntwo', None)
    """
    if event.startswith(b"data: ") and b"\n" not in event:  # what all but a few events look like
        return event[6:]
    values = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(values) if values else None
