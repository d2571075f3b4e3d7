"""`RemoteEngine` as the source of an engine's metrics: what it reads, and that it never raises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lightship.engines.remote import RemoteEngine, upstream_session
from lightship.gateway.routing.engine_metrics import EngineGauges, parse_engine_metrics
from lightship.testing.fake_engine import UNLIMITED, FakeReply, always
from lightship.testing.fake_upstream import FakeUpstream

EXPOSITION = b"""# HELP vllm:num_requests_waiting Number of requests waiting.
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="0",model_name="m"} 5.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
"""


@asynccontextmanager
async def engine_at(upstream: FakeUpstream) -> AsyncIterator[RemoteEngine]:
    async with upstream.serving(), upstream_session() as session:
        yield RemoteEngine(name="r", base_url=upstream.base_url + "/v1", session=session, timeouts=UNLIMITED)


@pytest.mark.parametrize(("metrics", "expected"), [(EXPOSITION, EngineGauges(3, 5, 0.25)), (b"nonsense", None)])
def test_metrics_are_read_whole(metrics: bytes, expected: EngineGauges | None) -> None:
    async def run() -> None:
        upstream = FakeUpstream(always(FakeReply()))
        upstream.metrics = metrics
        async with engine_at(upstream) as engine:
            read = await engine.read_metrics(timeout_s=10)
        assert read == metrics
        assert parse_engine_metrics(read) == expected

    asyncio.run(run())


def test_metrics_of_an_engine_without_them_are_none() -> None:
    async def run() -> None:
        async with engine_at(FakeUpstream(always(FakeReply()))) as engine:
            assert await engine.read_metrics(timeout_s=10) is None

    asyncio.run(run())


def test_metrics_of_an_engine_that_is_gone_are_none() -> None:
    async def run() -> None:
        upstream = FakeUpstream(always(FakeReply()))
        async with upstream.serving():
            address = upstream.base_url
        async with upstream_session() as session:
            engine = RemoteEngine(name="r", base_url=address, session=session, timeouts=UNLIMITED)
            assert await engine.read_metrics(timeout_s=10) is None

    asyncio.run(run())
