"""The cache in its place: a whole gateway in front of an engine behind a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from lightship.gateway.app import GatewayApp
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.runtime import reloadable_gateway
from lightship.gateway.state import StateConfig
from lightship.testing.asgi_client import JSON_HEADERS, AsgiClient
from lightship.testing.fake_engine import FakeReply, Script, always
from lightship.testing.fake_upstream import FakeUpstream

DIGEST = "sha256:" + "1" * 64
EVENTS = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    b'"delta":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}\n\n',
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n',
    b"data: [DONE]\n\n",
)
STREAM = FakeReply(chunks=EVENTS, headers={"content-type": "text/event-stream"})


def request(*, stream: bool = True, usage: bool = False, cache_control: bytes = b"") -> AsgiClient:
    message = {"role": "user", "content": "x"}
    body: dict[str, object] = {"model": "m", "messages": [message], "temperature": 0, "stream": stream}
    body |= {"stream_options": {"include_usage": True}} if usage else {}
    headers = (*JSON_HEADERS, (b"cache-control", cache_control)) if cache_control else JSON_HEADERS
    return AsgiClient(body=json.dumps(body).encode(), headers=headers)


def config(upstream: FakeUpstream, folder: str = "") -> GatewayConfig:
    replica = ReplicaConfig(
        name="r0", base_url=upstream.base_url, model_name="m", variant_name="fp16", variant_digest=DIGEST
    )
    return GatewayConfig(model_name="m", replicas=(replica,), cache=CacheConfig(), state=StateConfig(folder=folder))


@asynccontextmanager
async def gateway(script: Script, folder: str = "") -> AsyncIterator[tuple[GatewayApp, FakeUpstream]]:
    async with FakeUpstream(script).serving() as upstream, reloadable_gateway(config(upstream, folder)) as running:
        yield running.app, upstream


async def sent(app: GatewayApp, client: AsgiClient) -> AsgiClient:
    await client.run(app)
    assert client.is_complete
    assert client.status == 200
    return client


def test_gateway_with_cache_answers_again_and_says_so() -> None:
    async def run() -> None:
        async with gateway(always(STREAM)) as (app, upstream):
            first = await sent(app, request())
            plain, counted = await sent(app, request()), await sent(app, request(usage=True))
            whole = await sent(app, request(stream=False))
            renewed = await sent(app, request(cache_control=b"no-cache"))
            assert len(upstream.requests) == 2
            assert first.text == plain.text == renewed.text == EVENTS[0] + EVENTS[2]
            assert b'"total_tokens":4' in counted.text
            assert json.loads(whole.text)["choices"][0]["message"]["content"] == "hi"
            said = [client.reply_headers["x-cache"] for client in (first, plain, counted, whole, renewed)]
            assert said == ["miss", "hit-exact", "hit-exact", "hit-exact", "miss"]
            assert len({client.reply_headers["x-request-id"] for client in (first, plain, counted, whole)}) == 4
            for hit in (plain, counted, whole):
                assert hit.reply_headers["x-served-variant"] == DIGEST
                assert hit.reply_headers["x-degraded"] == "no"
                assert hit.reply_headers["age"] == "0"
                assert hit.reply_headers["x-quality-loss"] == first.reply_headers["x-quality-loss"]

    asyncio.run(run())


def test_gateway_with_cache_makes_one_call_for_many_and_the_first_may_leave() -> None:
    gate = asyncio.Event()

    async def run() -> None:
        async with gateway(always(replace(STREAM, first_gate=gate))) as (app, upstream):
            first, others = request(), [request() for _ in range(20)]
            async with asyncio.TaskGroup() as group:
                leaving = group.create_task(first.run(app))
                for client in others:
                    group.create_task(sent(app, client))
                await upstream.wait_for_requests(1)
                first.gone.set()
                await leaving
                gate.set()
            assert len(upstream.requests) == 1
            assert {client.text for client in others} == {EVENTS[0] + EVENTS[2]}

    asyncio.run(run())


def test_gateways_of_one_machine_share_their_answers(tmp_path: Path) -> None:
    async def run() -> None:
        async with FakeUpstream(always(STREAM)).serving() as upstream:
            both = config(upstream, str(tmp_path))
            async with reloadable_gateway(both) as one, reloadable_gateway(both) as other:
                await sent(one.app, request())
                while (hit := await sent(other.app, request())).reply_headers["x-cache"] != "hit-exact":
                    pass  # the first one's answer is stored behind its client's back
                assert hit.text == EVENTS[0] + EVENTS[2]

    asyncio.run(run())


def test_gateway_reloaded_without_the_cache_bypasses_it() -> None:
    async def run() -> None:
        async with FakeUpstream(always(STREAM)).serving() as upstream, reloadable_gateway(config(upstream)) as running:
            await sent(running.app, request())
            await running.apply(msgspec.structs.replace(config(upstream), cache=None))
            assert (await sent(running.app, request())).reply_headers["x-cache"] == "bypass"
            await running.apply(config(upstream))
            assert (await sent(running.app, request())).reply_headers["x-cache"] == "hit-exact"

    asyncio.run(run())
