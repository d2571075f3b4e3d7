"""Reading a request body within a size and a time limit."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from lightship.serving.http_exchange import EXTENSION, HttpExchange
from lightship.wire.errors import ApiError, invalid_request, payload_too_large, unsupported_media_type

# More digits than any body has, fewer than int() refuses.
_MAX_LENGTH_DIGITS = 20


def header(scope: Scope, name: bytes) -> str | None:
    """First value of a header (lower-case name), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


async def read_json_body(scope: Scope, receive: Receive, *, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body of a JSON request.

    Raises:
        ApiError: 415 for another content type, 413 over the limit, 408 when it arrives too slowly.
        ClientDisconnect: the client left before the body was complete.
    """
    content_type = header(scope, b"content-type") or ""
    if content_type != "application/json" and content_type.split(";")[0].strip().lower() != "application/json":
        raise unsupported_media_type(content_type)
    _check_content_length(header(scope, b"content-length"), limit_bytes=limit_bytes)
    exchange: HttpExchange | None = scope.get("extensions", {}).get(EXTENSION)
    if exchange is not None and exchange.is_body_complete:  # there is nothing to wait for
        return await _read_within(receive, limit_bytes=limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_within(receive, limit_bytes=limit_bytes)
    except TimeoutError as error:
        raise ApiError(
            408,
            f"The request body did not arrive within {timeout_s:g} s.",
            type="invalid_request_error",
            code="request_timeout",
        ) from error


def _check_content_length(value: str | None, *, limit_bytes: int) -> None:
    if value is None:
        return
    if not value.isascii() or not value.isdigit():
        raise invalid_request("Content-Length is not a number.", code="invalid_header")
    if len(value) > _MAX_LENGTH_DIGITS or int(value) > limit_bytes:
        raise payload_too_large(limit_bytes=limit_bytes)


async def _read_within(receive: Receive, *, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        if num_bytes > limit_bytes:
            raise payload_too_large(limit_bytes=limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
