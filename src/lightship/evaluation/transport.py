"""HTTP to one OpenAI-compatible endpoint, as a measurement needs it: time limits, patience, errors in our words.

Knows addresses, statuses and error bodies; what an answer means is the business of `endpoint` and `generation`.
Not a load client: see `evaluation.performance`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
import msgspec

from lightship.errors import MeasurementError, NetworkError
from lightship.ports.clock import Clock
from lightship.ports.engine import HopTimeouts

MAX_ATTEMPTS = 5
_MAX_WAIT_S = 10.0  # a server that asks for longer is treated as gone for this measurement
_MAX_REPLY_BYTES = 64 * 2**20  # a window of 8,192 tokens with 64 alternatives each is about 14 MB of JSON
# "Later" in both its forms: no capacity (503), or more requests than this client may send (429).
_BUSY = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
_NOT_SERVED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
# Set by our workers and our gateway: the digest of the variant that computed the answer.
_SERVED_VARIANT_HEADER = "x-served-variant"


class PromptTooLongError(MeasurementError):
    """The endpoint refused a prompt because it does not fit the model's context."""


class NotServedError(MeasurementError):
    """The endpoint has nothing at this path, or no such model."""


@dataclass(frozen=True)
class Served:
    """What an answer says of the model that gave it; "" where it says nothing.

    `fingerprint` is the variant's digest (from our workers and gateway), else the reply's `system_fingerprint`.
    """

    fingerprint: str = ""
    model: str = ""

    @property
    def name(self) -> str:
        """The more exact of the two: a change of it means that another model answers."""
        return self.fingerprint or self.model


@dataclass(frozen=True)
class Reply:
    """The body of a 200 answer, and the variant its headers name ("" where they name none)."""

    content: bytes
    served_variant: str

    def served(self, *, system_fingerprint: str | None, model: str | None) -> Served:
        """Who answered, from the headers and these two fields of the body."""
        return Served(fingerprint=self.served_variant or system_fingerprint or "", model=model or "")


class EndpointTransport:
    """Requests to one base URL.

    Args:
        base_url: Scheme, host and port, with or without the trailing `/v1`.
        session: Open aiohttp session; the caller closes it and puts authorization headers there.
        timeouts: Limits per hop: the longer of `first_token_s` and `next_token_s` bounds each wait for more bytes.
        clock: Time to wait with between attempts.

    Concurrency: safe for several requests at a time from one event loop.
    """

    def __init__(self, base_url: str, *, session: aiohttp.ClientSession, timeouts: HopTimeouts, clock: Clock) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._session = session
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(
            total=timeouts.total_s,
            connect=timeouts.connect_s,
            sock_connect=timeouts.connect_s,
            sock_read=max(timeouts.first_token_s, timeouts.next_token_s),
        )

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None, *, hint: str | None) -> Reply:
        """The 200 answer; a busy endpoint is asked again a few times, after the time it asks for.

        Args:
            hint: What the user can do when the endpoint refuses the request (4xx).

        Raises:
            PromptTooLongError: the prompt does not fit the context.
            NotServedError: there is nothing at this path, or no such model.
            MeasurementError: another refusal or failure.
            NetworkError: it cannot be reached, breaks off, stays busy, or takes too long.
        """
        status = 0
        for attempt in range(1, MAX_ATTEMPTS + 1):
            status, headers, content = await self._exchange(method, path, body)
            if status == HTTPStatus.OK:
                return Reply(content, headers.get(_SERVED_VARIANT_HEADER, ""))
            if status not in _BUSY:
                raise self._refusal(status, path, content, hint=hint)
            if attempt < MAX_ATTEMPTS:
                await self._clock.sleep(_retry_after_s(headers))
        raise NetworkError(
            f"the endpoint stayed busy: {status} on {MAX_ATTEMPTS} attempts",
            where=self.base_url,
            hint="Measure when it serves less traffic.",
        )

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        url = self.base_url + path
        try:
            async with self._session.request(method, url, json=body, timeout=self._timeout) as response:
                content = bytearray()
                async for part in response.content.iter_any():
                    content += part
                    if len(content) > _MAX_REPLY_BYTES:
                        raise MeasurementError(f"the endpoint's answer is over {_MAX_REPLY_BYTES} bytes", where=url)
                return response.status, response.headers, bytes(content)
        except TimeoutError as error:
            limits = (
                f"connect {self._timeout.connect} s, read {self._timeout.sock_read} s, total {self._timeout.total} s"
            )
            raise NetworkError(f"no answer within the time limits ({limits})", where=url) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NetworkError(f"the endpoint cannot be reached: {_reason(error)}", where=url) from error

    def _refusal(self, status: int, path: str, content: bytes, *, hint: str | None) -> MeasurementError:
        message, code = _error_of(content)
        where = self.base_url + path
        if status == HTTPStatus.BAD_REQUEST and (code == "context_length_exceeded" or "context length" in message):
            return PromptTooLongError(f"the prompt does not fit the model's context: {message}", where=where)
        kind = NotServedError if status in _NOT_SERVED else MeasurementError
        return kind(f"the endpoint answered {status}: {message}", where=where, hint=hint if status < 500 else None)


def _reason(error: Exception) -> str:
    """What the system says, where it says something; the address stands in the message anyway."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    words = getattr(cause, "strerror", None) or str(cause) or type(error).__name__
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused; nothing listens there"
    return str(words)


T = TypeVar("T")


def decoded(content: bytes, kind: type[T]) -> T | str:
    """The record, or why the content is not one."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return str(error)


def _error_of(content: bytes) -> tuple[str, str]:
    """Message and code of an OpenAI error body, or the start of whatever else came."""
    try:
        error = json.loads(content)["error"]
        return str(error["message"]), str(error.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return content[:200].decode("utf-8", errors="replace") or "an empty body", ""


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """The wait that is asked for, bounded; 1 s where it does not say (or names a date)."""
    for name, seconds_per_unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            asked_s = float(headers[name]) * seconds_per_unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(asked_s):
            return min(max(asked_s, 0.0), _MAX_WAIT_S)
    return 1.0
