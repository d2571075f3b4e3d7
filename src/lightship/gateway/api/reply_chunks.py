"""Bodies of replies whose beginning was looked at before they are passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import replace

from lightship.gateway.api.response_events import ChatStreamError
from lightship.ports.engine import AttemptError, AttemptFailure, EngineReply, StreamBrokenError


class Resumed:
    """Chunks whose first one has been taken already; without a rest it is the only one."""

    __slots__ = ("_first", "_rest")

    def __init__(self, first: bytes, rest: AsyncIterator[bytes] | None = None) -> None:
        self._first = first
        self._rest = rest

    def __aiter__(self) -> Resumed:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._rest is None:
            raise StopAsyncIteration
        return await anext(self._rest)


async def first_of(chunks: AsyncGenerator[bytes, None], *, replica: str, limit_s: float) -> bytes:
    """The first bytes there are to send: the commit point.

    Raises: AttemptError: it ended before, or took longer than `limit_s`; another replica may be tried.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await anext(chunks)
    except TimeoutError as error:
        raise AttemptError(
            AttemptFailure.FIRST_TOKEN_TIMEOUT, f"{replica}: no token came in time", replica=replica
        ) from error
    except StopAsyncIteration:
        raise AttemptError(AttemptFailure.CLOSED_EARLY, f"{replica}: no token came", replica=replica) from None
    except ChatStreamError as error:
        raise AttemptError(
            AttemptFailure.BAD_STATUS, f"{replica}: {error}", replica=replica, status=502, api_error=error.api_error
        ) from error
    except StreamBrokenError as error:
        raise AttemptError(AttemptFailure.CLOSED_EARLY, f"{replica}: {error}", replica=replica) from error


async def read_whole(reply: EngineReply, *, limit_bytes: int) -> bytes:
    """The body of a reply.

    Raises: AttemptError: it broke off, or is over the limit; nothing of it was sent on, so another may be tried.
    """
    pieces: list[bytes] = []
    num_bytes = 0
    try:
        async for chunk in reply.chunks:
            num_bytes += len(chunk)
            if num_bytes > limit_bytes:
                raise StreamBrokenError(f"an answer over the limit of {limit_bytes} bytes")
            pieces.append(chunk)
    except StreamBrokenError as error:
        message = f"{reply.replica}: {error}"
        raise AttemptError(AttemptFailure.CLOSED_EARLY, message, replica=reply.replica) from error
    return b"".join(pieces)


def with_body(reply: EngineReply, body: bytes, *, content_type: str = "application/json") -> EngineReply:
    """The reply with another body."""
    headers = {**described_as(reply.headers, content_type=content_type), "content-length": str(len(body))}
    return replace(reply, headers=headers, chunks=Resumed(body))


def described_as(headers: Mapping[str, str], *, content_type: str) -> dict[str, str]:
    """The headers without those that describe the body there was."""
    kept = {name: value for name, value in headers.items() if not name.startswith("content-") and name != "etag"}
    return {**kept, "content-type": content_type}
