"""A gateway of several processes, and `lightship gateway` alone, as real processes: what operators do to them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lightship.engines.process import free_port
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.gateway.server_config import ServerConfig
from lightship.gateway.state import StateConfig
from lightship.testing.fake_engine import FakeReply, always, stream_reply
from lightship.testing.fake_upstream import FakeUpstream

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
REQUEST = {"model": "m", "stream": True}
LIMIT_S = 40.0
ANSWER = stream_reply("a")


class Log:
    """Lines of a process's standard error, read as they come."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line_with(self, pattern: str) -> re.Match[str]:
        """The first line, from where the last call ended, that matches."""
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            self.lines.append(raw.decode())
            if match := re.search(pattern, self.lines[-1]):
                return match
        raise AssertionError(f"ended without a line like {pattern!r}: {''.join(self.lines)}")

    async def rest(self) -> str:
        """Everything up to the end."""
        assert self.process.stderr is not None
        self.lines.append((await self.process.stderr.read()).decode())
        return "".join(self.lines)


@asynccontextmanager
async def running(*command: str, environment: dict[str, str] | None = None, cwd: Path) -> AsyncIterator[Log]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, stderr=PIPE, stdout=asyncio.subprocess.DEVNULL, cwd=cwd,
        env={**os.environ, "LIGHTSHIP_HOME": str(cwd / "home"), **(environment or {})},
    )  # fmt: skip
    try:
        yield Log(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def gateway_of_workers(
    tmp_path: Path, upstream: FakeUpstream, *, workers: int = 2, server: ServerConfig | None = None, **settings: Any
) -> AsyncIterator[tuple[Log, str]]:
    write_config(tmp_path, upstream, workers=workers, server=server, **settings)
    async with running("lightship.gateway", str(tmp_path / "c.json"), cwd=tmp_path) as log:
        yield log, (await log.line_with(r"listening on (https?://\S+)"))[1]


def write_config(
    folder: Path, upstream: FakeUpstream, *, workers: int = 2, server: ServerConfig | None = None, **settings: Any
) -> None:
    replica = ReplicaConfig(name="r0", base_url=upstream.base_url, model_name="m", variant_name="fp16")
    config = GatewayConfig(
        **{"model_name": "m", "replicas": (replica,), "port": 0, "drain_timeout_s": 20.0, **settings},
        server=server or ServerConfig(workers=workers),
        state=StateConfig(folder=str(folder / "state")),
    )
    (folder / "c.json").write_bytes(encode_config(config))


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def until(is_true: Callable[[], Awaitable[bool]]) -> None:
    """Polls another process, at most for twenty seconds."""
    async with asyncio.timeout(20):
        while not await is_true():
            await asyncio.to_thread(time.sleep, 0.02)


async def is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url + "/health/ready") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def metrics(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    async with session.get(url + "/metrics") as response:
        assert response.status == 200, await response.text()
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def ask(session: aiohttp.ClientSession, url: str, **request: Any) -> tuple[int, bytes]:
    async with session.post(url + CHAT, json={**REQUEST, **request}) as response:
        return response.status, await response.read()


SERVED = 'lightship_requests_total{model="m",outcome="served",path="/v1/chat/completions"}'


def test_workers_metrics_of_any_process_are_the_sums_and_survive_a_kill(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            FakeUpstream(always(ANSWER)).serving() as upstream,
            gateway_of_workers(tmp_path, upstream) as (log, url),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        ):
            pids = children(log.process.pid)
            assert len(pids) == 2
            answers = await asyncio.gather(*(ask(session, url) for _ in range(40)))
            assert {status for status, _ in answers} == {200}
            shown = [await metrics(session, url) for _ in range(6)]
            assert {one[SERVED] for one in shown} == {40.0}
            assert {one["lightship_request_duration_seconds_count"] for one in shown} == {40.0}
            assert {one['lightship_replica_up{replica="r0"}'] for one in shown} == {1.0}
            assert {one['lightship_requests_in_flight{replica="r0"}'] for one in shown} == {0.0}

            os.kill(pids[0], signal.SIGKILL)
            await log.line_with(r"gateway process \d ended with status -9; starting it again")
            for _ in range(10):  # the other one serves, without a gap
                assert (await ask(session, url))[0] == 200

            async def is_back() -> bool:
                return len(children(log.process.pid)) == 2

            await until(is_back)
            after = await metrics(session, url)
            assert after[SERVED] == 50.0
            assert after["lightship_gateway_worker_restarts_total"] == 1.0

    asyncio.run(run())


def test_workers_killed_under_load_loses_only_what_it_had(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            FakeUpstream(always(ANSWER)).serving() as upstream,
            gateway_of_workers(tmp_path, upstream) as (log, url),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        ):
            outcomes: list[int] = []

            async def client() -> None:
                for _ in range(60):
                    try:
                        outcomes.append((await ask(session, url))[0])
                    except aiohttp.ClientError:
                        outcomes.append(0)

            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(client())
                await upstream.wait_for_requests(50)
                os.kill(children(log.process.pid)[0], signal.SIGKILL)
            assert set(outcomes) <= {0, 200}
            assert outcomes.count(0) <= 8  # one per client at most: what that process had under way
            assert outcomes[-8:] == [200] * 8

    asyncio.run(run())


def test_workers_sigterm_drains_all_and_second_sigterm_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        reply = stream_reply("a", "b", next_gate=gate)
        async with (
            asyncio.timeout(LIMIT_S),
            FakeUpstream(always(reply)).serving() as upstream,
            gateway_of_workers(tmp_path, upstream, workers=3) as (log, url),
            aiohttp.ClientSession() as session,
        ):
            responses = [await session.post(url + CHAT, json=REQUEST) for _ in range(6)]
            for response in responses:
                assert await response.content.readexactly(len(reply.chunks[0])) == reply.chunks[0]
            log.process.send_signal(signal.SIGTERM)
            await log.line_with("stopping")
            log.process.send_signal(signal.SIGTERM)
            await log.line_with("stopping already")
            gate.set()
            for response in responses:
                assert await response.read() == b"".join(reply.chunks[1:])
            assert await log.process.wait() == 0
            assert "Traceback" not in await log.rest()

    asyncio.run(run())


def test_workers_that_cannot_begin_end_the_gateway_with_their_exit_code(tmp_path: Path) -> None:
    async def run() -> None:
        replica = ReplicaConfig(
            name="r0", base_url="http://127.0.0.1:9", model_name="m", variant_name="v", api_key_env="NO_SUCH_KEY_HERE"
        )
        async with asyncio.timeout(LIMIT_S), FakeUpstream(always(ANSWER)).serving() as upstream:
            write_config(tmp_path, upstream, replicas=(replica,))
            async with running("lightship.gateway", str(tmp_path / "c.json"), cwd=tmp_path) as log:
                await log.line_with("the environment variable NO_SUCH_KEY_HERE is not set")
                assert await log.process.wait() == 2
                assert "Traceback" not in await log.rest()

    asyncio.run(run())


def test_workers_parent_killed_end_with_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            FakeUpstream(always(FakeReply())).serving() as upstream,
            gateway_of_workers(tmp_path, upstream) as (log, _),
        ):
            pids = children(log.process.pid)
            log.process.kill()

            async def are_gone() -> bool:
                return not any(is_running(pid) for pid in pids)

            await until(are_gone)

    asyncio.run(run())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_reload_keeps_streams_and_the_last_good_configuration(tmp_path: Path, workers: int) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        reply = stream_reply("a", "b", next_gate=gate)
        async with (
            asyncio.timeout(LIMIT_S),
            FakeUpstream(always(reply)).serving() as old,
            FakeUpstream(always(ANSWER)).serving() as new,
            gateway_of_workers(tmp_path, old, workers=workers) as (log, url),
            aiohttp.ClientSession() as session,
            session.post(url + CHAT, json=REQUEST) as under_way,
        ):
            assert await under_way.content.readexactly(len(reply.chunks[0])) == reply.chunks[0]
            write_config(tmp_path, new, workers=workers, model_name="n")  # noticed by looking at the file
            await log.line_with("configuration reloaded")
            assert (await ask(session, url, model="n")) == (200, ANSWER.body)
            assert (await ask(session, url))[0] == 404
            gate.set()
            assert await under_way.read() == b"".join(reply.chunks[1:])
            assert len(old.requests) == 1

            (tmp_path / "c.json").write_text('{"model_name": "o", "replicas": [], "prot": 1}')
            log.process.send_signal(signal.SIGHUP)
            line = (await log.line_with("the last good one stays: (.*)"))[1]
            assert "unknown field `prot`" in line
            assert (await ask(session, url, model="n"))[0] == 200
            shown = await metrics(session, url)
            assert shown['lightship_config_reloads_total{result="applied"}'] == 1.0
            assert shown['lightship_config_reloads_total{result="failed"}'] >= 1.0
            assert shown["lightship_config_last_reload_successful"] == 0.0

            write_config(tmp_path, new, workers=workers, port=1)
            log.process.send_signal(signal.SIGHUP)
            assert "gateway.listen (stays 127.0.0.1:0)" in (await log.line_with("next start only: (.*)"))[1]
            await log.line_with("configuration reloaded")
            assert (await ask(session, url))[0] == 200

    asyncio.run(run())


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two self-signed certificates for localhost: one.crt, one.key, two.crt, two.key."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("one", "two"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        try:
            subprocess.run(
                [*command, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-addext", "subjectAltName=IP:127.0.0.1"],
                cwd=folder, check=True, capture_output=True, timeout=60,
            )  # fmt: skip
        except FileNotFoundError:
            pytest.skip("NOT TESTED: openssl is not installed")
    return folder


def common_name(url: str) -> str:
    """Of the certificate a new connection gets."""
    host, port = url.removeprefix("https://").split(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port)), timeout=5) as plain, context.wrap_socket(plain) as wrapped:
        encoded = wrapped.getpeercert(binary_form=True)
    assert encoded is not None
    text = subprocess.run(
        ["openssl", "x509", "-inform", "DER", "-noout", "-subject"], input=encoded, capture_output=True, check=True
    ).stdout.decode()
    return text.strip().rpartition("=")[2].strip()


def lightship_gateway(*arguments: str) -> Sequence[str]:
    return ("lightship", "gateway", "--listen", "127.0.0.1:0", *arguments)


def test_gateway_alone_with_tls_takes_a_renewed_certificate_without_a_restart(
    tmp_path: Path, certificates: Path
) -> None:
    async def run() -> None:
        for end in ("crt", "key"):
            (tmp_path / f"tls.{end}").write_bytes((certificates / f"one.{end}").read_bytes())
        spec = "gateway: {tls: {cert_file: tls.crt, key_file: tls.key}, workers: 2, cors: {origins: ['https://a.example']}}"
        (tmp_path / "lightship.yaml").write_text(spec)
        async with (
            asyncio.timeout(LIMIT_S),
            FakeUpstream(always(ANSWER)).serving() as upstream,
            running(*lightship_gateway(upstream.base_url + "#m"), cwd=tmp_path) as log,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
        ):
            url = (await log.line_with(r"listening on (https://\S+)"))[1]
            assert (await ask(session, url))[0] == 200
            assert await asyncio.to_thread(common_name, url) == "one"

            preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
            async with session.options(url + CHAT, headers=preflight) as response:
                assert response.status == 200
                assert response.headers["access-control-allow-origin"] == "https://a.example"
            async with session.post(url + CHAT, json=REQUEST, headers={"origin": "https://a.example"}) as response:
                assert response.headers["access-control-allow-origin"] == "https://a.example"
                assert "x-served-variant" in response.headers["access-control-expose-headers"]

            (tmp_path / "tls.crt").write_bytes((certificates / "two.crt").read_bytes())
            await log.line_with("the new TLS certificate is not used, the old one stays: .*mismatch")
            assert await asyncio.to_thread(common_name, url) == "one"
            (tmp_path / "tls.key").write_bytes((certificates / "two.key").read_bytes())
            await log.line_with("TLS certificate renewed")
            await log.line_with("TLS certificate renewed")
            assert await asyncio.to_thread(common_name, url) == "two"
            assert (await ask(session, url))[0] == 200

    asyncio.run(run())


def test_gateway_alone_in_front_of_simulated_engines_finds_models_and_serves_a_ladder(tmp_path: Path) -> None:
    async def run() -> None:
        ports = [free_port(), free_port()]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        simulated = ("lightship", "serve-simulated", "--port")
        async with (
            asyncio.timeout(LIMIT_S),
            running(*simulated, str(ports[0]), "--model", "big", cwd=tmp_path),
            running(*simulated, str(ports[1]), "--model", "small", cwd=tmp_path),
            aiohttp.ClientSession() as session,
        ):
            for url in urls:
                await until(partial(is_ready, session, url))
            async with running(*lightship_gateway(*urls), cwd=tmp_path) as log:
                url = (await log.line_with(r"listening on (http://\S+)"))[1]
                async with session.get(url + "/v1/models") as response:
                    names = [card["id"] for card in (await response.json())["data"]]
                assert names == ["big", "big@default", "small", "small@default"]
                for model in ("big", "small"):
                    status, body = await ask(session, url, model=model, messages=[{"role": "user", "content": "x"}])
                    assert (status, body.rstrip().endswith(b"data: [DONE]")) == (200, True)
            ladder = ("--rung", f"top={urls[0]}", "--rung", f"less={urls[1]}", "--name", "chat")
            async with running(*lightship_gateway(*ladder), cwd=tmp_path) as log:
                url = (await log.line_with(r"listening on (http://\S+)"))[1]
                request = {"messages": [{"role": "user", "content": "x"}], "stream": False}
                async with session.post(url + CHAT, json={"model": "chat@less", **request}) as response:
                    assert response.status == 200
                    assert "rung=1" in response.headers["x-degraded"]
                    assert response.headers["x-quality-loss"] == "not-measured"
                assert await is_ready(session, url)
                result = await asyncio.to_thread(status_of, tmp_path)
                assert set(result["health"].values()) == {"ready"}

    asyncio.run(run())


def status_of(folder: Path) -> Any:
    environment = {**os.environ, "LIGHTSHIP_HOME": str(folder / "home")}
    result = subprocess.run(
        [sys.executable, "-m", "lightship", "status", "--json"], env=environment, capture_output=True, check=True
    )
    (system,) = json.loads(result.stdout)
    return system


def test_gateway_alone_begins_without_its_endpoint_and_is_ready_when_it_comes(tmp_path: Path) -> None:
    async def run() -> None:
        port = free_port()
        async with (
            asyncio.timeout(LIMIT_S),
            running(*lightship_gateway(f"http://127.0.0.1:{port}#m"), cwd=tmp_path) as log,
            aiohttp.ClientSession() as session,
        ):
            await log.line_with("cannot be reached.*asked again")
            url = (await log.line_with(r"listening on (http://\S+)"))[1]
            async with session.get(url + "/health/ready") as response:
                assert response.status == 503
            command = ("lightship", "serve-simulated", "--port", str(port), "--model", "m")
            async with running(*command, cwd=tmp_path):
                await until(partial(is_ready, session, url))
            log.process.send_signal(signal.SIGINT)
            assert await log.process.wait() == 0
            assert "Traceback" not in await log.rest()

    asyncio.run(run())


def test_gateway_alone_reloads_its_spec_and_refuses_a_bad_or_empty_one(tmp_path: Path) -> None:
    async def run() -> None:
        spec = tmp_path / "own.yaml"
        async with asyncio.timeout(LIMIT_S), FakeUpstream(always(ANSWER)).serving() as upstream:
            entry = f"upstreams: [{{name: one, base_url: '{upstream.base_url}', model: m, serves: NAME}}]\n"
            spec.write_text(entry.replace("NAME", "first"))
            async with (
                running(*lightship_gateway("-f", str(spec)), cwd=tmp_path) as log,
                aiohttp.ClientSession() as session,
            ):
                url = (await log.line_with(r"listening on (http://\S+)"))[1]
                assert (await ask(session, url, model="first"))[0] == 200
                spec.write_text(entry.replace("NAME", "second"))
                await log.line_with("configuration reloaded")
                assert (await ask(session, url, model="second"))[0] == 200
                spec.write_text(entry + "gateway: {worker: 2}\n")
                log.process.send_signal(signal.SIGHUP)
                assert "Did you mean gateway.workers?" in (await log.line_with("last good one stays: (.*)"))[1]
                spec.write_text("")
                log.process.send_signal(signal.SIGHUP)
                await log.line_with("last good one stays.*gone or empty")
                assert (await ask(session, url, model="second"))[0] == 200

    asyncio.run(run())


def test_gateway_client_that_does_not_read_is_cut_and_its_engine_freed(tmp_path: Path) -> None:
    async def run() -> None:
        long = replace(ANSWER, chunks=(b"data: " + b"x" * 2**20 + b"\n\n",) * 64)
        async with (
            asyncio.timeout(LIMIT_S),
            FakeUpstream(always(long)).serving() as upstream,
            gateway_of_workers(tmp_path, upstream, server=ServerConfig(send_timeout_s=0.5)) as (_, url),
        ):
            host, port = url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port), limit=1)
            body = json.dumps(REQUEST).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await upstream.wait_for_requests(1)
            began_s = time.monotonic()
            await upstream.wait_for_abandoned(1)
            assert time.monotonic() - began_s < 10
            writer.close()

    asyncio.run(run())
