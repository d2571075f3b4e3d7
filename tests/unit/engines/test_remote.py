from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lightship.engines import remote
from lightship.engines.remote import ProbeResult, RemoteEngine, attempt_failure, root_url, upstream_session
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, HopTimeouts
from lightship.testing.fake_engine import FakeReply, Fault, always, in_turn, stream_reply
from lightship.testing.fake_upstream import FakeUpstream
from lightship.transport.errors import (
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    MalformedResponseError,
    ResponseTimeoutError,
    TransportError,
)
from lightship.wire.errors import ApiError

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


@pytest.mark.parametrize(("status", "expected"), [(200, ProbeResult.READY), (503, ProbeResult.NOT_READY)])
def test_probe_ready_of_an_engine_with_health_only_reads_that(status: int, expected: ProbeResult) -> None:
    """vLLM's `/health` is 503 once its engine has died; that it has no `/health/ready` said nothing."""

    async def run() -> list[ProbeResult]:
        upstream = FakeUpstream(always(FakeReply()))
        upstream.missing_paths = frozenset({"/health/ready"})
        upstream.health_status = status
        async with upstream.serving(), upstream_session() as session:
            engine = RemoteEngine(name="r", base_url=upstream.base_url, session=session, timeouts=TIMEOUTS)
            return [await engine.probe_ready(timeout_s=5) for _ in "12"]

    assert asyncio.run(run()) == [expected] * 2


LLAMACPP_500 = b'{"error":{"code":500,"message":"%s","type":"server_error"}}'


@pytest.mark.parametrize("said", [b"[json.exception.parse_error.101] parse error", b"Failed to parse tools: {}"])
def test_clients_error_that_llamacpp_calls_its_own_is_a_400_and_no_failed_attempt(said: bytes) -> None:
    reply = FakeReply(status=500, headers={"server": "llama.cpp"}, chunks=(LLAMACPP_500 % said,))
    with pytest.raises(ApiError) as caught:
        asyncio.run(answered(reply))
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    assert caught.value.message == said.decode()


@pytest.mark.parametrize(("server", "said"), [("llama.cpp", b"Compute error."), ("other", b"Failed to parse tools")])
def test_engines_own_500_is_a_failed_attempt(server: str, said: bytes) -> None:
    reply = FakeReply(status=500, headers={"server": server}, chunks=(LLAMACPP_500 % said,))
    with pytest.raises(AttemptError) as caught:
        asyncio.run(answered(reply))
    assert (caught.value.failure, caught.value.status) == (AttemptFailure.BAD_STATUS, 500)


async def answered(reply: FakeReply) -> None:
    upstream = FakeUpstream(always(reply))
    async with upstream.serving(), upstream_session() as session:
        engine = RemoteEngine(name="r", base_url=upstream.base_url, session=session, timeouts=TIMEOUTS)
        async with engine.open(CALL):
            pass


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


def test_remote_headers_of_the_engine_are_sent_and_stronger_than_a_calls() -> None:
    async def run() -> None:
        upstream = FakeUpstream(always(FakeReply()))
        async with upstream.serving(), upstream_session() as session:
            engine = RemoteEngine(
                name="r",
                base_url=upstream.base_url + "/api/v1",
                session=session,
                timeouts=TIMEOUTS,
                headers={"Authorization": "Bearer secret"},
            )
            call = replace(CALL, headers={"authorization": "Bearer other", "traceparent": "00-a"})
            async with engine.open(call) as reply:
                assert reply.status == 200
        [request] = upstream.requests
        assert (request.method, request.path, request.body) == ("POST", "/api/v1/completions", CALL.body)
        assert request.headers["authorization"] == "Bearer secret"
        assert (request.headers["traceparent"], request.headers["host"]) == ("00-a", upstream.base_url[7:])

    asyncio.run(run())


@pytest.mark.parametrize("headers", [{"x": "a\r\nb: c"}, {"x\r\nb": "c"}, {"x": "ü"}])
def test_remote_header_that_would_begin_another_one_is_refused(headers: dict[str, str]) -> None:
    async def run() -> None:
        async with upstream_session() as session:
            with pytest.raises(ValueError, match="holds characters that no header may have"):
                RemoteEngine(name="r", base_url="http://h", session=session, timeouts=TIMEOUTS, headers=headers)

    asyncio.run(run())


@pytest.mark.parametrize("was_idle_for_long", [True, False])
def test_remote_connection_that_died_idle_is_replaced_unseen(
    was_idle_for_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_DIED_IDLE_AFTER_S", 0.0 if was_idle_for_long else 3600.0)

    async def run() -> None:
        replies = in_turn(FakeReply(), FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE), FakeReply())
        upstream = FakeUpstream(replies)
        async with upstream.serving(), upstream_session() as session:
            engine = RemoteEngine(name="r", base_url=upstream.base_url, session=session, timeouts=TIMEOUTS)
            async with engine.open(CALL) as reply:
                assert b"".join([chunk async for chunk in reply.chunks]) == FakeReply().body
            if was_idle_for_long:
                async with engine.open(CALL) as reply:
                    assert b"".join([chunk async for chunk in reply.chunks]) == FakeReply().body
            else:  # what just worked did not die of idleness
                with pytest.raises(AttemptError) as caught:
                    await engine.open(CALL).__aenter__()
                assert caught.value.failure is AttemptFailure.CLOSED_EARLY
        assert (len(upstream.requests), upstream.num_connections) == ((3, 2) if was_idle_for_long else (2, 1))

    asyncio.run(run())


def test_remote_new_connection_that_dies_is_not_replaced() -> None:
    async def run() -> None:
        upstream = FakeUpstream(always(FakeReply(fault=Fault.CLOSE_BEFORE_FIRST_BYTE)))
        async with upstream.serving(), upstream_session() as session:
            engine = RemoteEngine(name="r", base_url=upstream.base_url, session=session, timeouts=TIMEOUTS)
            with pytest.raises(AttemptError):
                await engine.open(CALL).__aenter__()
        assert len(upstream.requests) == 1

    asyncio.run(run())


def test_remote_answers_in_a_row_share_one_connection() -> None:
    async def run() -> None:
        upstream = FakeUpstream(always(stream_reply("a", "b")))
        async with upstream.serving(), upstream_session() as session:
            engine = RemoteEngine(name="r", base_url=upstream.base_url, session=session, timeouts=TIMEOUTS)
            for _ in range(5):
                async with engine.open(replace(CALL, is_streaming=True)) as reply:
                    assert b"".join([chunk async for chunk in reply.chunks]) == stream_reply("a", "b").body
            assert upstream.num_connections == 1

    asyncio.run(run())


def test_remote_client_that_reads_nothing_stops_the_replica_from_sending() -> None:
    async def run() -> None:
        piece = b"x" * 2**16
        num_pieces = 2**10  # 64 MiB, more than sockets hold
        upstream = FakeUpstream(always(FakeReply(chunks=(piece,) * num_pieces, is_chunked=True)))
        async with upstream.serving(), upstream_session() as session:
            engine = RemoteEngine(name="r", base_url=upstream.base_url, session=session, timeouts=TIMEOUTS)
            async with engine.open(replace(CALL, is_streaming=True)) as reply:
                for _ in range(1000):  # turns of the event loop in which everything could come
                    await asyncio.sleep(0)
                assert upstream.num_open == 1
                assert sum([len(chunk) async for chunk in reply.chunks]) == len(piece) * num_pieces

    asyncio.run(run())
