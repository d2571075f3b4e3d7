"""CORS: lets pages of named origins call the gateway from a browser, and read the headers that it answers with.

Starlette's middleware answers the preflight itself, before any key is asked for, as browsers send none with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from lightship.gateway.server_config import CorsConfig

# What a page may read of an answer: everything we say about it.
EXPOSED_HEADERS = (
    "age",
    "retry-after",
    "retry-after-ms",
    "x-cache",
    "x-degraded",
    "x-overhead-ms",
    "x-quality-loss",
    "x-queue-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-reject-reason",
    "x-request-id",
    "x-served-variant",
    "x-should-retry",
)


def for_browsers(app: ASGIApp, cors: CorsConfig | None, *, exposed: Iterable[str] = EXPOSED_HEADERS) -> ASGIApp:
    """The app as pages of these origins may call it; itself where there are none.

    Credentials in the sense of browsers (cookies) are never allowed: a key comes in `Authorization`, which is a header
    like any other.
    """
    if cors is None:
        return app
    return CORSMiddleware(
        app,
        allow_origins=cors.origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=tuple(exposed),
        max_age=cors.max_age_s,
    )
