"""The HTTP leaf over TLS, against a real server with a certificate made for the test."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
import uvloop

from lightship.engines.remote import ProbeResult, RemoteEngine, upstream_session
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, HopTimeouts

TIMEOUTS = HopTimeouts(connect_s=5, first_token_s=5, next_token_s=5, total_s=5)
CALL = EngineCall(path="/v1/completions", body=b'{"model":"m"}', request_id="r", model="m", is_streaming=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tls.crt`, self-signed for `localhost` and no other name, and its `tls.key`."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run(
            [*command, *names, "-keyout", "tls.key", "-out", "tls.crt"],
            cwd=folder, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("NOT TESTED: openssl is not installed")
    return folder


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one request after the other."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"POST"):
                await reader.readexactly(len(CALL.body))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def ask(certificate: Path, *, host: str, trusts: bool) -> tuple[bytes | AttemptFailure, ProbeResult]:
    """Body of an answer, or why there was none; and what a probe finds."""

    async def run() -> tuple[bytes | AttemptFailure, ProbeResult]:
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving)
        port = server.sockets[0].getsockname()[1]
        trusted = ssl.create_default_context(cafile=str(certificate / "tls.crt")) if trusts else None
        async with server, upstream_session(ssl_context=trusted) as session:
            engine = RemoteEngine(name="r", base_url=f"https://{host}:{port}", session=session, timeouts=TIMEOUTS)
            found: bytes | AttemptFailure
            try:
                async with engine.open(CALL) as reply:
                    found = b"".join([chunk async for chunk in reply.chunks])
            except AttemptError as error:
                found = error.failure
            return found, await engine.probe_ready(timeout_s=5)

    return uvloop.run(run())


def test_remote_tls_with_a_certificate_for_the_host_is_answered(certificate: Path) -> None:
    assert ask(certificate, host="localhost", trusts=True) == (b"{}", ProbeResult.READY)


def test_remote_tls_with_another_hosts_certificate_is_refused(certificate: Path) -> None:
    assert ask(certificate, host="127.0.0.1", trusts=True) == (AttemptFailure.CONNECT, ProbeResult.UNREACHABLE)


def test_remote_tls_with_a_certificate_nobody_vouches_for_is_refused(certificate: Path) -> None:
    assert ask(certificate, host="localhost", trusts=False) == (AttemptFailure.CONNECT, ProbeResult.UNREACHABLE)
