from __future__ import annotations

import pytest

from lightship.gateway.server_config import CorsConfig, ServerConfig, TlsConfig, server_problems


def test_server_defaults_have_no_problem() -> None:
    assert list(server_problems(ServerConfig())) == []


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        (ServerConfig(workers=0), "workers: must be within 1 and 256, got 0"),
        (ServerConfig(workers=1000), "workers: must be within 1 and 256, got 1000"),
        (ServerConfig(send_timeout_s=0), "send_timeout_s: must be above 0 and finite, got 0"),
        (ServerConfig(tls=TlsConfig(cert_file="", key_file="k")), "tls.cert_file: must name a file"),
        (ServerConfig(cors=CorsConfig(origins=())), "cors.origins: must name at least one origin, or *"),
        (ServerConfig(cors=CorsConfig(origins=("*",), max_age_s=-1)), "cors.max_age_s: must be within 0 and 86400"),
    ],
)
def test_server_problem_is_named(server: ServerConfig, problem: str) -> None:
    (found,) = server_problems(server)
    assert found.startswith(problem)


@pytest.mark.parametrize("origin", ["https://a.example", "http://localhost:3000", "https://[::1]:8443", "*"])
def test_server_origin_as_browsers_send_it_is_accepted(origin: str) -> None:
    assert list(server_problems(ServerConfig(cors=CorsConfig(origins=(origin,))))) == []


@pytest.mark.parametrize(
    "origin", ["https://a.example/", "a.example", "https://A.example", "ftp://a", "https://u@a", "https://a:x", ""]
)
def test_server_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    (found,) = server_problems(ServerConfig(cors=CorsConfig(origins=(origin,))))
    assert found.startswith("cors.origins: must be like https://app.example.com (no path), or *, got")
