"""Every path of the API on its way through a gateway to an engine that has it: what arrives, what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import uvloop

from lightship.gateway.app import GatewayApp
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.runtime import running_gateway
from lightship.testing.asgi_server import serving_app
from lightship.testing.fake_engine import FakeReply, Script, always
from lightship.testing.fake_upstream import FakeUpstream
from lightship.wire.paths import API_PATHS
from lightship.wire.sse import CONTENT_TYPE, DONE, data_event, named_event


@dataclass
class Running:
    """A gateway before one engine."""

    url: str
    app: GatewayApp
    upstream: FakeUpstream
    session: aiohttp.ClientSession

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        headers = {"content-type": "application/json"}
        async with self.session.post(self.url + path, data=body, headers=headers) as response:
            return response.status, await response.read()

    async def metrics(self) -> str:
        assert await self.app.in_flight.wait_until_idle(timeout_s=10)  # a client sees the last byte before the end
        async with self.session.get(self.url + "/metrics") as response:
            return await response.text()


@asynccontextmanager
async def running(script: Script) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(FakeUpstream(script).serving())
        replica = ReplicaConfig(name="r0", base_url=upstream.base_url, model_name="m", variant_name="v")
        config = GatewayConfig(model_name="m", replicas=(replica,), health_interval_s=3600)
        app = await stack.enter_async_context(running_gateway(config))
        url = await stack.enter_async_context(serving_app(app))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Running(url, app, upstream, session)


def check(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    uvloop.run(run())


BODIES: dict[str, bytes] = {
    "/v1/chat/completions": b'{"model":"m","messages":[],"tools":[{"type":"function","function":{"name":"f"}}],'
    b'"response_format":{"type":"json_object"},"logprobs":true,"some_engines_own":[1.50,{}]}',
    "/v1/completions": b'{"model":"m","prompt":[1,2],"logprobs":5,"echo":true}',
    "/v1/responses": b'{"model":"m","input":"x","tools":[{"type":"web_search"}],"previous_response_id":"resp_1"}',
    "/v1/embeddings": b'{"model":"m","input":["a","b"],"dimensions":3,"stream":true}',
    "/tokenize": b'{"model":"m","prompt":"x"}',
    "/detokenize": b'{"model":"m","tokens":[1]}',
    "/v1/tokenize": b'{"model":"m","messages":[{"role":"user","content":"x"}]}',
    "/v1/detokenize": b'{"model":"m","tokens":[]}',
}


def test_every_path_of_the_table_is_tried_here() -> None:
    assert BODIES.keys() == API_PATHS.keys()


@pytest.mark.parametrize("path", BODIES)
def test_body_arrives_where_engines_have_the_path_and_the_answer_comes_back_as_it_is(path: str) -> None:
    async def scenario() -> None:
        reply = FakeReply(chunks=(b'{ "anything": [1.50, "\\u00fc"] ,', b' "data":[]}\n'))
        async with running(always(reply)) as gateway:
            assert await gateway.post(path, BODIES[path]) == (200, reply.body)
            assert [(request.path, request.body) for request in gateway.upstream.requests] == [
                (API_PATHS[path].path, BODIES[path])
            ]
            assert f'path="{API_PATHS[path].path}"' in await gateway.metrics()

    check(scenario)


@pytest.mark.parametrize("path", BODIES)
def test_path_for_bodies_takes_no_other_method(path: str) -> None:
    async def scenario() -> None:
        async with running(always(FakeReply())) as gateway, gateway.session.get(gateway.url + path) as response:
            assert (response.status, response.headers["allow"]) == (405, "POST")
            assert gateway.upstream.requests == []

    check(scenario)


def test_native_response_stream_passes_byte_for_byte() -> None:
    async def scenario() -> None:
        events = [
            named_event("response.created", b'{"type":"response.created"}'),
            named_event("response.output_text.delta", b'{"type":"response.output_text.delta","delta":"a"}'),
            named_event(
                "response.completed",
                b'{"type":"response.completed","response":{"usage":{"input_tokens":3,"output_tokens":9}}}',
            ),
        ]
        reply = FakeReply(chunks=tuple(events), headers={"content-type": CONTENT_TYPE})
        async with running(always(reply)) as gateway:
            body = b'{"model":"m","input":"x","stream":true}'
            assert await gateway.post("/v1/responses", body) == (200, reply.body)
            assert gateway.upstream.requests[0].body == body, "usage is always in a response: nothing to ask for"

    check(scenario)


def test_made_response_counts_its_tokens_like_any_other() -> None:
    async def scenario() -> None:
        chunk: dict[str, Any] = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
        usage: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
        events = [data_event(json.dumps(event).encode()) for event in (chunk, usage)]
        chat = FakeReply(chunks=(*events, DONE), headers={"content-type": CONTENT_TYPE})
        missing = FakeReply(chunks=(b'{"detail":"Not Found"}',), status=404)
        async with running(lambda call: missing if call.path == "/v1/responses" else chat) as gateway:
            status, body = await gateway.post("/v1/responses", b'{"model":"m","input":"x","stream":true}')
            assert (status, body.count(b"event: response.completed\n")) == (200, 1)
            assert [request.path for request in gateway.upstream.requests] == ["/v1/responses", "/v1/chat/completions"]
            metrics = await gateway.metrics()
            counted = [line for line in metrics.splitlines() if "_tokens_total{" in line and not line.endswith(" 0.0")]
            assert sorted(float(line.rsplit(" ", 1)[1]) for line in counted)[-2:] == [5.0, 7.0], counted

    check(scenario)


def test_keep_alive_comments_pass_once_there_is_a_token() -> None:
    async def scenario() -> None:
        token = data_event(b'{"choices":[{"delta":{"content":"a"}}]}')
        reply = FakeReply(
            chunks=(b": ping\n\n", token, b": ping\n\n", data_event(b'{"choices":null,"usage":null}'), DONE),
            headers={"content-type": CONTENT_TYPE},
        )
        async with running(always(reply)) as gateway:
            body = b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}'
            assert await gateway.post("/v1/chat/completions", body) == (200, reply.body)

    check(scenario)
