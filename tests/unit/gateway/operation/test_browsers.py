from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from lightship.gateway.operation.browsers import EXPOSED_HEADERS, for_browsers
from lightship.gateway.server_config import CorsConfig

ORIGIN = "https://app.example.com"
CORS = CorsConfig(origins=(ORIGIN,), max_age_s=60)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Asks everybody for a key."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"x-degraded", b"no")]})
    await send({"type": "http.response.body", "body": b""})


def ask(cors: CorsConfig | None, method: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer."""
    sent: list[Message] = []
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": "/v1/chat/completions", "headers": raw}

    async def run() -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Message) -> None:
            sent.append(message)

        await for_browsers(app, cors)(scope, receive, send)

    asyncio.run(run())
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def test_cors_preflight_of_a_named_origin_is_answered_without_a_key() -> None:
    wanted = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,content-type"}
    status, headers = ask(CORS, "OPTIONS", origin=ORIGIN, **wanted)
    assert status == 200
    assert headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in headers["access-control-allow-headers"]
    assert headers["access-control-max-age"] == "60"
    assert "access-control-allow-credentials" not in headers


def test_cors_preflight_of_another_origin_is_refused() -> None:
    status, headers = ask(CORS, "OPTIONS", origin="https://evil.example", access_control_request_method="POST")
    assert status == 400
    assert "access-control-allow-origin" not in headers


def test_cors_answer_to_a_named_origin_may_be_read_with_its_headers() -> None:
    status, headers = ask(CORS, "POST", origin=ORIGIN)
    assert status == 401
    assert headers["access-control-allow-origin"] == ORIGIN
    exposed = headers["access-control-expose-headers"].split(", ")
    assert set(exposed) == set(EXPOSED_HEADERS)
    assert headers["vary"] == "Origin"


def test_cors_request_of_a_program_or_another_page_is_left_as_it_is() -> None:
    assert ask(CORS, "POST") == (401, {"x-degraded": "no", "vary": "Origin"})  # caches must know that it depends
    assert "access-control-allow-origin" not in ask(CORS, "POST", origin="https://evil.example")[1]


def test_cors_none_changes_nothing() -> None:
    assert for_browsers(app, None) is app
