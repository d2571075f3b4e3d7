"""Where requests go: scheme, host and port, and the path that precedes every other."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Origin:
    """One server. `authority` is what the `host` header says; `base_path` begins with a slash or is empty."""

    scheme: str
    host: str
    port: int
    authority: str
    base_path: str = ""

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme == "https"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.base_path}"


class CredentialsInAddressError(ValueError):
    """An address with a user's name or password in it, which must not be repeated."""


def parse_origin(url: str) -> Origin:
    """The server behind an `http://` or `https://` address.

    Raises: ValueError: not such an address, or one with credentials, a query or characters that no address has.

    >>> parse_origin("https://[::1]:8443/api/")
    Origin(scheme='https', host='::1', port=8443, authority='[::1]:8443', base_path='/api')
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("an address holds printable ASCII characters only")
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port  # the port raises ValueError where it is not a number
    if parts.scheme not in _DEFAULT_PORTS or not host or parts.query or parts.fragment:
        raise ValueError("not the address of a server: expected http://HOST:PORT or https://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise CredentialsInAddressError("the address holds credentials; send them as a header")
    return Origin(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], parts.netloc, parts.path.rstrip("/"))
