"""Which headers pass the gateway, which it sets itself, and the request id."""

from __future__ import annotations

import os
import re

from starlette.types import Scope

REQUEST_ID = "x-request-id"
SERVED_VARIANT = "x-served-variant"
DEGRADED = "x-degraded"
OVERHEAD_MS = "x-overhead-ms"
QUEUE_MS = "x-queue-ms"
QUALITY_LOSS = "x-quality-loss"
CACHE = "x-cache"
COLD_START = "x-cold-start"

# Only the gateway may say these; a replica's own word for them is dropped.
_OURS_IN_REPLIES = frozenset(
    {REQUEST_ID, DEGRADED, OVERHEAD_MS, QUEUE_MS, QUALITY_LOSS, CACHE, COLD_START, "x-cache-score", "x-cache-bound"}
)
# These would tell clients about the machine behind, or set cookies on the gateway's name.
_PRIVATE_IN_REPLIES = frozenset({"server", "date", "set-cookie", "via", "alt-svc", "strict-transport-security"})
_DROPPED_FROM_REPLIES = _OURS_IN_REPLIES | _PRIVATE_IN_REPLIES
# Nothing else goes to a replica: neither the client's key nor copies of headers that only we send.
_FORWARDED = {b"accept": "accept", b"traceparent": "traceparent", b"tracestate": "tracestate"}

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


def take_request_id(scope: Scope) -> str:
    """The client's request id when it is short and plain, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return bytes(value).decode("ascii")
    return "req-" + os.urandom(12).hex()


def forwarded_request_headers(scope: Scope) -> dict[str, str]:
    """The client's headers that go on to a replica."""
    forwarded = {}
    for name, value in scope["headers"]:
        if name in _FORWARDED and value.isascii() and (text := value.decode("ascii")).isprintable():
            forwarded[_FORWARDED[name]] = text
    return forwarded


def trusted_reply_headers(headers: dict[str, str], *, variant_digest: str) -> dict[str, str]:
    """A replica's headers without those it has no say in; the configured digest, if any, replaces its own."""
    trusted = {name: value for name, value in headers.items() if name not in _DROPPED_FROM_REPLIES}
    if variant_digest:
        trusted[SERVED_VARIANT] = variant_digest
    return trusted
