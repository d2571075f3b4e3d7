"""Ways into a cluster: kubeconfig files, service accounts, plugins."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightship.kubernetes.access import in_cluster_access
from lightship.kubernetes.errors import ClusterAccessError
from lightship.kubernetes.exec_plugin import ExecPlugin, PluginCommand
from lightship.kubernetes.kubeconfig import kubeconfig_access, kubeconfig_paths
from lightship.ports.clock import SystemClock

CLOCK = SystemClock()


def write(path: Path, *, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "llm"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:8001", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def headers(path: Path) -> dict[str, str]:
    return dict(asyncio.run(_headers(path)))


async def _headers(path: Path) -> Any:
    return await kubeconfig_access([path], clock=CLOCK).credentials.headers()


def test_kubeconfig_current_context_says_where_and_who(tmp_path: Path) -> None:
    access = kubeconfig_access([write(tmp_path / "config", user={"token": "abc"})], clock=CLOCK)
    assert (access.server, access.namespace, access.name) == ("http://127.0.0.1:8001", "llm", "here")
    assert headers(tmp_path / "config") == {"authorization": "Bearer abc"}
    assert "abc" not in repr(access)


def test_kubeconfig_basic_authentication_is_encoded(tmp_path: Path) -> None:
    write(tmp_path / "config", user={"username": "Aladdin", "password": "open sesame"})
    assert headers(tmp_path / "config") == {"authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}  # RFC 7617


def test_kubeconfig_token_file_is_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    write(tmp_path / "config", user={"tokenFile": "token"})
    assert headers(tmp_path / "config") == {"authorization": "Bearer from-file"}


def test_kubeconfig_impersonation_adds_its_headers(tmp_path: Path) -> None:
    write(tmp_path / "config", user={"token": "abc", "as": "jane", "as-groups": ["ops"]})
    assert headers(tmp_path / "config") == {
        "authorization": "Bearer abc",
        "impersonate-user": "jane",
        "impersonate-group": "ops",
    }


def test_kubeconfig_first_of_several_files_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    first.write_text(yaml.safe_dump({"clusters": [{"name": "c", "cluster": {"server": "http://first:1"}}]}))
    write(second, user={"token": "abc"})
    access = kubeconfig_access([first, tmp_path / "missing", second], clock=CLOCK)
    assert access.server == "http://first:1"


def test_kubeconfig_paths_come_from_the_variable_or_the_home_folder(tmp_path: Path) -> None:
    assert kubeconfig_paths({}, home=tmp_path) == [tmp_path / ".kube" / "config"]
    assert kubeconfig_paths({"KUBECONFIG": "/a:/b"}, home=tmp_path) == [Path("/a"), Path("/b")]


@pytest.mark.parametrize(
    ("user", "cluster", "message"),
    [
        ({"auth-provider": {"name": "gcp"}}, {}, "auth-provider 'gcp' is not supported"),
        ({"exec": {"command": "x", "apiVersion": "client.authentication.k8s.io/v1alpha1"}}, {}, "speaks 'client"),
        ({"client-certificate-data": "AAAA"}, {"server": "https://x"}, "needs its key"),
        ({}, {"server": "https://x", "certificate-authority-data": "%%"}, "not base64"),
        ({}, {"server": "https://x", "certificate-authority-data": "AAAA"}, "not a certificate authority"),
        ({}, {"proxy-url": "socks5://x"}, "only http and https proxies"),
        ({}, {"server": ""}, "has no server"),
        ({"as-groups": ["a", "b"]}, {}, "one of several groups"),
    ],
)
def test_kubeconfig_that_gives_no_way_in_says_why(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "config", user=user, cluster=cluster)
    with pytest.raises(ClusterAccessError, match=message):
        kubeconfig_access([path], clock=CLOCK)


def test_kubeconfig_missing_file_context_and_nonsense_are_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterAccessError, match="no kubeconfig"):
        kubeconfig_access([tmp_path / "none"], clock=CLOCK)
    path = write(tmp_path / "config")
    with pytest.raises(ClusterAccessError, match=r"no context 'there'.* There are: here"):
        kubeconfig_access([path], clock=CLOCK, context="there")
    path.write_text("users: 3")
    with pytest.raises(ClusterAccessError, match="not a kubeconfig"):
        kubeconfig_access([path], clock=CLOCK)


def test_kubeconfig_insecure_cluster_is_not_verified(tmp_path: Path) -> None:
    path = write(tmp_path / "config", cluster={"server": "https://x", "insecure-skip-tls-verify": True})
    context = kubeconfig_access([path], clock=CLOCK).ssl_context
    assert context is not None
    assert context.verify_mode is ssl.CERT_NONE


def plugin(tmp_path: Path, script: str, **options: Any) -> ExecPlugin:
    program = tmp_path / "plugin.py"
    program.write_text(script)
    command = PluginCommand("client.authentication.k8s.io/v1", sys.executable, (str(program),), **options)
    return ExecPlugin(command, clock=CLOCK)


PRINTS_TOKEN = """
import json, os, pathlib, sys
told = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
runs = pathlib.Path(sys.argv[0]).with_suffix(".runs")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
print(json.dumps({"apiVersion": told["apiVersion"], "kind": "ExecCredential",
                  "status": {"token": os.environ["NAME"] + str(len(runs.read_text())), **EXTRA}}))
"""


def test_exec_plugin_token_is_kept_until_it_is_refused(tmp_path: Path) -> None:
    credentials = plugin(tmp_path, PRINTS_TOKEN.replace("**EXTRA", ""), environment=(("NAME", "t"),))

    async def main() -> list[str]:
        seen = [(await credentials.headers())["authorization"] for _ in range(2)]
        credentials.reject()
        return [*seen, (await credentials.headers())["authorization"]]

    assert asyncio.run(main()) == ["Bearer t1", "Bearer t1", "Bearer t2"]


def test_exec_plugin_token_that_has_ended_is_asked_for_anew(tmp_path: Path) -> None:
    script = PRINTS_TOKEN.replace("**EXTRA", '"expirationTimestamp": "2020-01-01T00:00:00Z"')
    credentials = plugin(tmp_path, script, environment=(("NAME", "t"),))

    async def main() -> list[str]:
        return [(await credentials.headers())["authorization"] for _ in range(2)]

    assert asyncio.run(main()) == ["Bearer t1", "Bearer t2"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise SystemExit(3)", "ended with status 3"),
        ("print('hello')", "no ExecCredential"),
        (f"print({json.dumps(json.dumps({'apiVersion': 'v2', 'kind': 'ExecCredential'}))})", "printed v2"),
        (
            "import json; print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',"
            "'status': {'clientCertificateData': 'x'}}))",
            "a client certificate and no token",
        ),
    ],
)
def test_exec_plugin_that_gives_no_token_says_why(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(ClusterAccessError, match=message):
        asyncio.run(plugin(tmp_path, script).headers())


def test_exec_plugin_that_is_not_installed_shows_its_hint(tmp_path: Path) -> None:
    command = PluginCommand("client.authentication.k8s.io/v1", str(tmp_path / "none"), install_hint="apt install it")
    with pytest.raises(ClusterAccessError, match="apt install it"):
        asyncio.run(ExecPlugin(command, clock=CLOCK).headers())


def test_in_cluster_access_reads_the_mounted_account(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("pod-token")
    (tmp_path / "namespace").write_text("llm")
    authority = ssl.create_default_context().get_ca_certs(binary_form=True)
    if not authority:
        pytest.skip("NOT TESTED: this machine has no certificate authorities to borrow one from")
    pem = ssl.DER_cert_to_PEM_cert(authority[0])
    (tmp_path / "ca.crt").write_text(pem)
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    access = in_cluster_access(environment, clock=CLOCK, folder=tmp_path)
    assert (access.server, access.namespace) == ("https://[fd00::1]:6443", "llm")
    assert access.ssl_context is not None
    assert len(access.ssl_context.get_ca_certs()) == 1  # that one and no other


def test_in_cluster_access_outside_and_without_a_token_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ClusterAccessError, match="does not run in a cluster"):
        in_cluster_access({}, clock=CLOCK, folder=tmp_path)
    with pytest.raises(ClusterAccessError, match="automountServiceAccountToken: true"):
        in_cluster_access({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, clock=CLOCK, folder=tmp_path)
