from __future__ import annotations

import socket

import pytest

from lightship.errors import PortInUseError, UsageError
from lightship.serving.server import bind_socket


def test_bind_socket_port_zero_takes_a_free_one() -> None:
    with bind_socket("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0


def test_bind_socket_port_taken_says_which() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1:{port}: the port is taken"):
            bind_socket("127.0.0.1", port)


def test_bind_socket_foreign_address_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.1:0: cannot listen"):
        bind_socket("192.0.2.1", 0)
