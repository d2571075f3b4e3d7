"""How a gateway is run: processes, TLS, browsers, the access log. The section `server` of its configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

# More processes than any machine has use for; a typing error above it must not start thousands.
MAX_WORKERS = 256


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """PEM files; new content is served to new connections without a restart."""

    cert_file: str
    key_file: str


class CorsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which web pages may call the gateway from a browser: origins like `https://app.example.com`, or `*` for all."""

    origins: tuple[str, ...]
    max_age_s: int = 600


class AccessLogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One JSON object per request, without prompts and answers. An empty `file` is standard error."""

    is_enabled: bool = True
    file: str = ""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about the processes themselves.

    `send_timeout_s` bounds how long a client may not read what waits for it.
    """

    workers: int = 1
    tls: TlsConfig | None = None
    cors: CorsConfig | None = None
    access_log: AccessLogConfig = AccessLogConfig()
    send_timeout_s: float = 30.0


def server_problems(server: ServerConfig) -> Iterable[str]:
    """What is wrong with the section, each as `key: what was expected, what it is`."""
    if not 1 <= server.workers <= MAX_WORKERS:
        yield f"workers: must be within 1 and {MAX_WORKERS}, got {server.workers}"
    if not 0 < server.send_timeout_s < math.inf:
        yield f"send_timeout_s: must be above 0 and finite, got {server.send_timeout_s:g}"
    if server.tls is not None:
        for key in ("cert_file", "key_file"):
            if not getattr(server.tls, key):
                yield f"tls.{key}: must name a file"
    if server.cors is not None:
        yield from (f"cors.{problem}" for problem in _cors_problems(server.cors))


def _cors_problems(cors: CorsConfig) -> Iterable[str]:
    if not cors.origins:
        yield "origins: must name at least one origin, or *"
    if not 0 <= cors.max_age_s <= 86_400:
        yield f"max_age_s: must be within 0 and 86400, got {cors.max_age_s}"
    for origin in cors.origins:
        if origin != "*" and not is_origin(origin):
            yield f"origins: must be like https://app.example.com (no path), or *, got {origin!r}"


def is_origin(text: str) -> bool:
    """Whether a browser would send this as its `Origin`: scheme, host and an optional port, nothing else."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises when it is not a port number
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and text == text.lower()
        and text == f"{parts.scheme}://{parts.netloc}"
        and "@" not in parts.netloc
    )
