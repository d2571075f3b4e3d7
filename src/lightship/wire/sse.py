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
