from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from lightship.engines.remote import ProbeResult, RemoteEngine, attempt_failure, root_url, upstream_session
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, HopTimeouts
from lightship.testing.fake_engine import FakeReply, always
from lightship.testing.fake_upstream import FakeUpstream
from lightship.transport.errors import (
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    MalformedResponseError,
    ResponseTimeoutError,
    TransportError,
)

TIMEOUTS = HopTimeouts(connect_s=5, first_token_s=5, next_token_s=5, total_s=5)
CALL = EngineCall(path="/v1/completions", body=b'{"model":"m"}', request_id="r", model="m", is_streaming=False)


def all_subclasses(kind: type[TransportError]) -> Iterator[type[TransportError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from all_subclasses(subclass)


EXPECTED_FAILURES = {
    TransportError: AttemptFailure.CLOSED_EARLY,
    ConnectError: AttemptFailure.CONNECT,
    ConnectTimeoutError: AttemptFailure.CONNECT_TIMEOUT,
    ConnectionLostError: AttemptFailure.CLOSED_EARLY,
    MalformedResponseError: AttemptFailure.CLOSED_EARLY,
    ResponseTimeoutError: AttemptFailure.FIRST_TOKEN_TIMEOUT,
}


@pytest.mark.parametrize("kind", sorted(set(all_subclasses(TransportError)), key=str))
def test_attempt_failure_every_transport_error_has_a_kind(kind: type[TransportError]) -> None:
    assert attempt_failure(kind("x")) is EXPECTED_FAILURES[kind]


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_root_url_is_the_same_with_and_without_v1(url: str) -> None:
    assert root_url(url) == "http://h:1"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, ProbeResult.READY),
        (404, ProbeResult.READY),
        (401, ProbeResult.READY),
        (501, ProbeResult.READY),
        (500, ProbeResult.NOT_READY),
        (503, ProbeResult.NOT_READY),
        (None, ProbeResult.UNREACHABLE),
    ],
)
def test_probe_ready_reads_the_status_and_forgives_a_missing_endpoint(
    status: int | None, expected: ProbeResult
) -> None:
    async def run() -> ProbeResult:
        upstream = FakeUpstream(always(FakeReply()))
        upstream.health_status = status
        async with upstream.serving(), upstream_session() as session:
            engine = RemoteEngine(name="r", base_url=upstream.base_url, session=session, timeouts=TIMEOUTS)
            return await engine.probe_ready(timeout_s=5)

    assert asyncio.run(run()) is expected


def test_remote_nobody_listens_is_a_failed_connect() -> None:
    async def run() -> None:
        async with FakeUpstream(always(FakeReply())).serving() as upstream:
            gone = upstream.base_url
        async with upstream_session() as session:
            engine = RemoteEngine(name="r", base_url=gone, session=session, timeouts=TIMEOUTS)
            with pytest.raises(AttemptError) as caught:
                await engine.open(CALL).__aenter__()
            assert caught.value.failure is AttemptFailure.CONNECT
            assert await engine.probe_ready(timeout_s=5) is ProbeResult.UNREACHABLE

    asyncio.run(run())


def test_remote_connection_headers_stay_on_their_hop() -> None:
    async def run() -> None:
        headers = {"connection": "keep-alive, x-hop", "x-hop": "1", "keep-alive": "timeout=5", "x-end": "2"}
        upstream = FakeUpstream(always(FakeReply(headers=headers)))
        async with upstream.serving(), upstream_session() as session:
            engine = RemoteEngine(name="r", base_url=upstream.base_url, session=session, timeouts=TIMEOUTS)
            async with engine.open(CALL) as reply:
                assert reply.headers == {"x-end": "2"}
        assert upstream.requests[0].headers["accept-encoding"] == "identity"

    asyncio.run(run())
