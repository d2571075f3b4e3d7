"""`python -m lightship.gateway` as a process of its own: start, drain, exit codes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.testing.fake_engine import FakeReply, always, stream_reply
from lightship.testing.fake_upstream import FakeUpstream

CHAT = "/v1/chat/completions"
REQUEST = {"model": "m", "stream": True}


def write_config(path: Path, config: GatewayConfig) -> None:
    path.write_bytes(encode_config(config))


async def start(path: Path) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "lightship.gateway", str(path), stderr=PIPE)


async def line_with(process: Process, pattern: str) -> re.Match[str]:
    assert process.stderr is not None
    async for line in process.stderr:
        if match := re.search(pattern, line.decode()):
            return match
    raise AssertionError(f"the gateway ended without a line like {pattern!r}")


@asynccontextmanager
async def gateway_process(
    path: Path, upstream: FakeUpstream, *, drain_timeout_s: float
) -> AsyncIterator[tuple[Process, str]]:
    replica = ReplicaConfig(name="r0", base_url=upstream.base_url, model_name="m", variant_name="fp16")
    write_config(path, GatewayConfig(model_name="m", replicas=(replica,), port=0, drain_timeout_s=drain_timeout_s))
    process = await start(path)
    try:
        yield process, (await line_with(process, r"listening on (http://\S+)"))[1]
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def test_gateway_sigterm_finishes_what_is_under_way_and_refuses_the_rest(tmp_path: Path) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        reply = stream_reply("a", "b", next_gate=gate)
        async with (
            asyncio.timeout(30),
            FakeUpstream(always(reply)).serving() as upstream,
            gateway_process(tmp_path / "c.json", upstream, drain_timeout_s=20) as (process, url),
            aiohttp.ClientSession() as session,
            session.post(url + CHAT, json=REQUEST) as under_way,
        ):
            assert await under_way.content.readexactly(len(reply.chunks[0])) == reply.chunks[0]
            process.send_signal(signal.SIGTERM)
            async with session.get(url + "/health/ready") as ready:
                pass
            while ready.status == 200:  # until the process has seen the signal
                async with session.get(url + "/health/ready") as ready:
                    pass
            async with session.post(url + CHAT, json=REQUEST) as refused:
                assert (ready.status, refused.status) == (503, 503)
                assert refused.headers["x-reject-reason"] == "shutdown"
                assert int(refused.headers["retry-after"]) >= 1
            gate.set()
            assert await under_way.read() == b"".join(reply.chunks[1:])
            assert await process.wait() == 0
            assert len(upstream.requests) == 1

    asyncio.run(run())


def test_gateway_drain_time_over_cuts_what_is_left_and_exits(tmp_path: Path) -> None:
    async def run() -> None:
        reply = stream_reply("a", "b", next_gate=asyncio.Event())
        async with (
            asyncio.timeout(30),
            FakeUpstream(always(reply)).serving() as upstream,
            gateway_process(tmp_path / "c.json", upstream, drain_timeout_s=0.1) as (process, url),
            aiohttp.ClientSession() as session,
            session.post(url + CHAT, json=REQUEST) as under_way,
        ):
            await under_way.content.readexactly(len(reply.chunks[0]))
            process.send_signal(signal.SIGTERM)
            with pytest.raises(aiohttp.ClientPayloadError):
                await under_way.content.read()
            assert await process.wait() == 0
            await upstream.wait_for_abandoned(1)

    asyncio.run(run())


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_gateway_idle_stops_at_once(tmp_path: Path, sig: signal.Signals) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(30),
            FakeUpstream(always(FakeReply())).serving() as upstream,
            gateway_process(tmp_path / "c.json", upstream, drain_timeout_s=20) as (process, _),
        ):
            process.send_signal(sig)
            async with asyncio.timeout(5):
                assert await process.wait() == 0

    asyncio.run(run())


def test_gateway_bad_configuration_exits_2_and_says_why(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "c.json"
        path.write_text('{"model_name":"m","replicas":[]}')
        process = await start(path)
        _, stderr = await process.communicate()
        assert process.returncode == 2
        assert b"c.json: replicas: must name at least one replica" in stderr
        assert b"Traceback" not in stderr

    asyncio.run(run())


def test_gateway_port_taken_exits_7_and_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            replica = ReplicaConfig(name="r0", base_url="http://127.0.0.1:9", model_name="m", variant_name="v")
            path = tmp_path / "c.json"
            path.write_bytes(
                encode_config(GatewayConfig(model_name="m", replicas=(replica,), port=taken.getsockname()[1]))
            )
            process = await start(path)
            _, stderr = await process.communicate()
        assert process.returncode == 7
        assert b"the port is taken" in stderr

    asyncio.run(run())


def test_gateway_access_log_is_one_json_object_per_request(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(30),
            FakeUpstream(always(stream_reply("a"))).serving() as upstream,
            gateway_process(tmp_path / "c.json", upstream, drain_timeout_s=1) as (process, url),
            aiohttp.ClientSession() as session,
        ):
            async with session.post(url + CHAT, json=REQUEST, headers={"x-request-id": "mine"}) as response:
                await response.read()
            line = json.loads((await line_with(process, r"^(\{.*\})"))[1])
            assert (line["request_id"], line["outcome"], line["status"]) == ("mine", "served", 200)
            assert line["bytes"] == len(stream_reply("a").body)

    asyncio.run(run())


def test_gateway_started_to_exit_with_its_parent_does(tmp_path: Path) -> None:
    async def run() -> None:
        replica = ReplicaConfig(name="r0", base_url="http://127.0.0.1:9", model_name="m", variant_name="v")
        path = tmp_path / "c.json"
        write_config(path, GatewayConfig(model_name="m", replicas=(replica,), port=0))
        command = [sys.executable, "-m", "lightship.gateway", str(path), "--exit-with-parent"]
        async with asyncio.timeout(30):
            process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stderr=PIPE)
            await line_with(process, "listening on")
            assert process.stdin is not None
            process.stdin.close()
            await process.communicate()
        assert process.returncode == 0

    asyncio.run(run())
