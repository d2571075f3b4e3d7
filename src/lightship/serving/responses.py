"""Sending JSON, errors and streams over ASGI without intermediate objects."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from starlette.types import Send

from lightship.wire.errors import ApiError


@lru_cache(maxsize=1024)
def _raw_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


def raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers in ASGI form."""
    return [(_raw_name(name), value.encode("latin-1")) for name, value in headers.items()]


async def send_bytes(
    send: Send, body: bytes, *, status: int = 200, headers: Mapping[str, str], is_head: bool = False
) -> None:
    """One whole response with its length."""
    complete = {**headers, "content-length": str(len(body))}
    await send({"type": "http.response.start", "status": status, "headers": raw_headers(complete)})
    await send({"type": "http.response.body", "body": b"" if is_head else body})


async def send_json(send: Send, body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    """One whole JSON response, already encoded."""
    await send_bytes(send, body, status=status, headers={"content-type": "application/json", **(headers or {})})


async def send_api_error(send: Send, error: ApiError, *, headers: Mapping[str, str] | None = None) -> None:
    """The OpenAI error object with its status and headers."""
    await send_json(send, error.body_bytes(), status=error.status, headers={**(headers or {}), **error.headers})


async def start_stream(send: Send, *, status: int = 200, headers: Mapping[str, str]) -> None:
    """Headers of a response whose body follows in pieces."""
    await send({"type": "http.response.start", "status": status, "headers": raw_headers(headers)})


async def send_chunk(send: Send, chunk: bytes) -> None:
    """One piece of a streamed body."""
    await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def end_stream(send: Send) -> None:
    """The end of a streamed body."""
    await send({"type": "http.response.body", "body": b"", "more_body": False})
