"""API keys: how one is made, what is kept of it, and what it allows.

A key is `ls-PREFIX-SECRET`. The prefix is public: it names the key in lists and logs and stays when the secret is
changed. The secret has 256 random bits, so a plain SHA-256 digest is enough to keep it safe at rest: there is nothing
to guess from. Only digests of whole keys are kept.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

_KEY = re.compile(r"ls-([a-z2-7]{8})-[A-Za-z0-9_-]{43}")
_NUM_PREFIX_BYTES = 5
_NUM_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeyScopes:
    """What a key may be used for.

    Args:
        models: Names it may use, None for all. A model's name covers its variants, `model@variant` only that one.
        priority: Class of requests that name none; "" is the gateway's default.
        max_priority: The most important class it may use; requests for a higher one get this. "" sets no bound.
        is_admin: Whether it may do what is not for clients.
    """

    models: frozenset[str] | None = None
    priority: str = ""
    max_priority: str = ""
    is_admin: bool = False

    def allows(self, model: str) -> bool:
        """Whether it may use the model of this name."""
        models = self.models
        return models is None or model in models or model.partition("@")[0] in models


EVERYTHING = KeyScopes()


class KeyState(StrEnum):
    """Whether a key works."""

    ACTIVE = "active"
    DISABLED = "disabled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """Everything that is kept of a key. Times are in seconds since 1970.

    Args:
        prefix: Its public name.
        digest: Of the whole key.
        tenant: Whose limits apply.
        scopes: What it may be used for.
        label: What people call it.
        created_unix_s: When it was made.
        expires_unix_s: From then on it does not work; None is never.
        is_disabled: Whether it was switched off.
        rotated_unix_s: When its secret was changed last.
        old_digest: Of the key before that.
        old_until_unix_s: So long the key before works as well.
    """

    prefix: str
    digest: bytes = field(repr=False)
    tenant: str
    scopes: KeyScopes = EVERYTHING
    label: str = ""
    created_unix_s: float = 0.0
    expires_unix_s: float | None = None
    is_disabled: bool = False
    rotated_unix_s: float | None = None
    old_digest: bytes | None = field(default=None, repr=False)
    old_until_unix_s: float = 0.0

    def state(self, now_unix_s: float) -> KeyState:
        """Whether its current secret works."""
        if self.is_disabled:
            return KeyState.DISABLED
        is_over = self.expires_unix_s is not None and now_unix_s >= self.expires_unix_s
        return KeyState.EXPIRED if is_over else KeyState.ACTIVE


def new_key(random_bytes: Callable[[int], bytes], *, prefix: str | None = None) -> str:
    """A new key, under a new prefix unless one is given."""
    if prefix is None:
        prefix = base64.b32encode(random_bytes(_NUM_PREFIX_BYTES)).decode("ascii").lower()
    secret = base64.urlsafe_b64encode(random_bytes(_NUM_SECRET_BYTES)).decode("ascii").rstrip("=")
    return f"ls-{prefix}-{secret}"


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8")).digest()


def prefix_of(key: str) -> str | None:
    """The public part of a well-formed key, else None."""
    match = _KEY.fullmatch(key)
    return match[1] if match else None
