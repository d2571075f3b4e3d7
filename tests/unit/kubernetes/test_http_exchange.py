"""The exchange over TLS: whom it trusts, and how it shows its certificate. Certificates are made by openssl."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from lightship.kubernetes.client import client_of
from lightship.kubernetes.errors import UnreachableError
from lightship.kubernetes.kubeconfig import kubeconfig_access
from lightship.kubernetes.resources import PODS
from lightship.ports.clock import SystemClock

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="NOT TESTED: openssl is not installed")
CLOCK = SystemClock()


def openssl(folder: Path, *arguments: str) -> None:
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server and a client that it vouches for, and another authority."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("authority", "stranger"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl(folder, "req", "-x509", *key, "-subj", f"/CN={name}", "-days", "2", *files)
    for name, extension in (("server", "subjectAltName=DNS:cluster.example"), ("client", "subjectAltName=DNS:client")):
        openssl(folder, "req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / f"{name}.ext").write_text(extension)
        signing = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-days", "2")
        parts = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", f"{name}.ext")
        openssl(folder, "x509", "-req", *signing, *parts)
    return folder


@asynccontextmanager
async def tls_server(folder: Path) -> AsyncIterator[str]:
    """Lists no Pods to whoever shows a certificate of the authority; an address."""

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        subject = dict(entry[0] for entry in request.transport.get_extra_info("peercert")["subject"])
        assert subject == {"commonName": "client"}
        return web.json_response({"kind": "PodList", "metadata": {"resourceVersion": "5"}, "items": []})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "authority.pem"))
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def list_pods(folder: Path, tmp_path: Path, *, authority: str, hostname: str, has_certificate: bool = True) -> str:
    def data(name: str) -> str:
        return base64.b64encode((folder / name).read_bytes()).decode()

    async def main() -> str:
        async with tls_server(folder) as server:
            cluster = {
                "server": server,
                "tls-server-name": hostname,
                "certificate-authority-data": data(f"{authority}.pem"),
            }
            pair = {"client-certificate-data": data("client.pem"), "client-key": str(folder / "client.key")}
            user: dict[str, Any] = pair if has_certificate else {}
            config = {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": cluster}],
                "users": [{"name": "x", "user": user}],
            }
            path = tmp_path / "config"
            path.write_text(yaml.safe_dump(config))
            async with client_of(kubeconfig_access([path], clock=CLOCK), clock=CLOCK) as client:
                return (await client.list(PODS, namespace="default")).resource_version

    return asyncio.run(main())


def test_exchange_trusted_server_and_client_certificate_are_accepted(certificates: Path, tmp_path: Path) -> None:
    assert list_pods(certificates, tmp_path, authority="authority", hostname="cluster.example") == "5"


def test_exchange_server_of_another_authority_is_refused(certificates: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        list_pods(certificates, tmp_path, authority="stranger", hostname="cluster.example")


def test_exchange_certificate_for_another_name_is_refused(certificates: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        list_pods(certificates, tmp_path, authority="authority", hostname="other.example")


def test_exchange_without_its_certificate_is_turned_away(certificates: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        list_pods(certificates, tmp_path, authority="authority", hostname="cluster.example", has_certificate=False)


def test_exchange_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "config"
        config = {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}],
        }
        path.write_text(yaml.safe_dump(config))
        async with client_of(kubeconfig_access([path], clock=CLOCK), clock=CLOCK) as client:
            with pytest.raises(UnreachableError, match="no answer from the API server"):
                await client.list(PODS, namespace="default")

    asyncio.run(main())
