"""What can go wrong with an exchange, told apart as far as anybody acts on it.

TransportError
├── ConnectError              no connection: refused, unreachable, unknown host, TLS; the OSError is its cause
│   └── ConnectTimeoutError       none in time
├── ConnectionLostError       it ended before the answer was complete
├── MalformedResponseError    not an HTTP answer, or one whose end two readers could see in different places
└── ResponseTimeoutError      nothing came in time
"""

from __future__ import annotations


class TransportError(Exception):
    """An exchange gave no complete answer."""


class ConnectError(TransportError):
    """No connection was made, so nothing was sent."""


class ConnectTimeoutError(ConnectError):
    """No connection was made in time."""


class ConnectionLostError(TransportError):
    """The connection ended before the answer was complete."""


class MalformedResponseError(TransportError):
    """What came is not an HTTP answer, or not one that is safe to pass on."""


class ResponseTimeoutError(TransportError):
    """The answer, or its next part, did not come in time."""
