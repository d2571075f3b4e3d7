"""Who the client says it is, request by request: tokens that rotate are read again."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lightship.kubernetes.errors import ClusterAccessError
from lightship.ports.clock import Clock

# Tokens of service accounts live an hour and are renewed on disk well before; client-go reads them every minute.
_TOKEN_AGE_S = 60.0


class Credentials(Protocol):
    """Gives the headers that say who asks."""

    async def headers(self) -> Mapping[str, str]:
        """The headers for the next request. Raises: ClusterAccessError: there are none to be had."""
        ...

    def reject(self) -> None:
        """The server did not accept the last ones: whatever was kept is not to be used again."""
        ...


class FixedHeaders:
    """The same headers each time: a token, a password, or nothing where a certificate says it all."""

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self._headers = dict(headers or {})

    def __repr__(self) -> str:
        return f"FixedHeaders({', '.join(self._headers)})"  # never the values

    async def headers(self) -> Mapping[str, str]:
        """See `Credentials`."""
        return self._headers

    def reject(self) -> None:
        """See `Credentials`. There is nothing else to try."""


def bearer(token: str) -> Mapping[str, str]:
    """The header of a token."""
    return {"authorization": f"Bearer {token}"}


def basic(username: str, password: str) -> Mapping[str, str]:
    """The header of a name and a password."""
    return {"authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")}


class TokenFile:
    """The token in a file, read again once a minute, and at once when it was refused.

    Args:
        path: The file.
        clock: Time.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._token = ""
        self._read_s = 0.0

    async def headers(self) -> Mapping[str, str]:
        """See `Credentials`."""
        now_s = self._clock.monotonic_s()
        if not self._token or now_s - self._read_s >= _TOKEN_AGE_S:
            self._read(now_s)
        return bearer(self._token)

    def reject(self) -> None:
        """See `Credentials`."""
        self._token = ""

    def _read(self, now_s: float) -> None:  # a few hundred bytes on a memory file system: no thread is needed
        try:
            token = self._path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            if self._token:
                return  # it is being replaced; the one there is still good
            raise ClusterAccessError(f"the token cannot be read: {error}", where=str(self._path)) from error
        if not token:
            raise ClusterAccessError("the token file is empty", where=str(self._path))
        self._token, self._read_s = token, now_s


class WithHeaders:
    """Other credentials, and headers beside them: whom to act as."""

    def __init__(self, inner: Credentials, headers: Mapping[str, str]) -> None:
        self._inner = inner
        self._extra = dict(headers)

    async def headers(self) -> Mapping[str, str]:
        """See `Credentials`."""
        return {**await self._inner.headers(), **self._extra}

    def reject(self) -> None:
        """See `Credentials`."""
        self._inner.reject()
