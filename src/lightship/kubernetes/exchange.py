"""How one request gets to the server and its answer back; tests bring one without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class ApiRequest:
    """One request. `path` begins with a slash and is quoted; `query` is not."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class ApiAnswer(Protocol):
    """An answer whose head is there. Header names are lower-case."""

    @property
    def status(self) -> int:
        """HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises: UnreachableError: it broke off."""
        ...


class Exchange(Protocol):
    """Sends requests to one server."""

    def open(self, request: ApiRequest) -> AbstractAsyncContextManager[ApiAnswer]:
        """The answer to a request; leaving the block gives it up. Time limits are the caller's.

        Raises: UnreachableError: no answer.
        """
        ...

    async def aclose(self) -> None:
        """Effects: closes all connections."""
        ...
