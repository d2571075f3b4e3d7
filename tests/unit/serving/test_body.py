from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from lightship.serving.body import read_json_body
from lightship.testing.virtual_time import run_in_virtual_time
from lightship.wire.errors import ApiError

JSON = (b"content-type", b"application/json")


def read(*messages: Message, headers: tuple[tuple[bytes, bytes], ...] = (JSON,), limit_bytes: int = 10) -> bytes:
    rest = list(messages)

    async def receive() -> Message:
        if not rest:
            await asyncio.Event().wait()
        return rest.pop(0)

    scope: Scope = {"type": "http", "headers": list(headers)}
    return run_in_virtual_time(read_json_body(scope, receive, limit_bytes=limit_bytes, timeout_s=3))


def piece(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_read_json_body_joins_its_pieces() -> None:
    assert read(piece(b"{", more=True), piece(b"", more=True), piece(b"}")) == b"{}"


@pytest.mark.parametrize("value", [b"application/json", b"Application/JSON ; charset=utf-8"])
def test_read_json_body_takes_json_content_types(value: bytes) -> None:
    assert read(piece(b"{}"), headers=((b"content-type", value),)) == b"{}"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((), 415),
        (((b"content-type", b"text/json"),), 415),
        ((JSON, (b"content-length", b"11")), 413),
        ((JSON, (b"content-length", b"9" * 5000)), 413),
        ((JSON, (b"content-length", b"-1")), 400),
        ((JSON, (b"content-length", "１".encode())), 400),
    ],
)
def test_read_json_body_bad_head_is_refused_before_reading(
    headers: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    with pytest.raises(ApiError) as caught:
        read(headers=headers)
    assert caught.value.status == status


def test_read_json_body_over_the_limit_without_a_length_is_413() -> None:
    with pytest.raises(ApiError) as caught:
        read(piece(b"x" * 6, more=True), piece(b"x" * 5, more=True))
    assert caught.value.status == 413


def test_read_json_body_at_the_limit_is_fine() -> None:
    assert read(piece(b"x" * 10)) == b"x" * 10


def test_read_json_body_too_slow_is_408() -> None:
    with pytest.raises(ApiError) as caught:
        read(piece(b"{", more=True))
    assert caught.value.status == 408


def test_read_json_body_client_that_leaves_is_not_an_answer() -> None:
    with pytest.raises(ClientDisconnect):
        read(piece(b"{", more=True), {"type": "http.disconnect"})
