"""Kubeconfig files: which cluster, as whom.

Source: the `v1` Config of `k8s.io/client-go/tools/clientcmd`. Where several files are given, the first that says
something of a name wins, and relative paths are relative to the file that they stand in. What cannot be honoured
(`auth-provider`, which client-go dropped too) is refused by name.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import yaml

from lightship.kubernetes.access import ClusterAccess, trusting
from lightship.kubernetes.credentials import Credentials, FixedHeaders, TokenFile, WithHeaders, basic, bearer
from lightship.kubernetes.errors import ClusterAccessError
from lightship.kubernetes.exec_plugin import API_VERSIONS, ExecPlugin, PluginCommand
from lightship.ports.clock import Clock


class _Record(msgspec.Struct, rename="kebab", frozen=True):
    pass


class _Cluster(_Record, frozen=True):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _ExecVariable(msgspec.Struct, frozen=True):
    name: str
    value: str = ""


class _Exec(msgspec.Struct, rename="camel", frozen=True):
    command: str
    api_version: str = ""
    args: list[str] | None = None
    env: list[_ExecVariable] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False


class _User(_Record, frozen=True):
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    exec: _Exec | None = None
    auth_provider: dict[str, Any] | None = None
    act_as: str = msgspec.field(default="", name="as")
    act_as_uid: str = msgspec.field(default="", name="as-uid")
    act_as_groups: list[str] | None = msgspec.field(default=None, name="as-groups")


class _Context(_Record, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(msgspec.Struct, frozen=True):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct, frozen=True):
    name: str
    user: _User


class _NamedContext(msgspec.Struct, frozen=True):
    name: str
    context: _Context


class _File(_Record, frozen=True):
    current_context: str = ""
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


def kubeconfig_paths(environment: Mapping[str, str], *, home: Path) -> list[Path]:
    """The files that `KUBECONFIG` names, or the one in the home folder."""
    named = [Path(part) for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [home / ".kube" / "config"]


def kubeconfig_access(paths: Sequence[Path], *, clock: Clock, context: str = "") -> ClusterAccess:
    """The way into the cluster of a context.

    Args:
        paths: The files; those that are missing are left out, as kubectl does.
        clock: Time.
        context: Its name; "" takes the current one.

    Raises: ClusterAccessError: no file, no such context, or something in it that gives no way in.
    """
    files = [(path, _read(path)) for path in paths if path.is_file()]
    names = ", ".join(map(str, paths))
    if not files:
        raise ClusterAccessError("there is no kubeconfig", where=names, hint="Name one with --kubeconfig.")
    wanted = context or next((file.current_context for _, file in files if file.current_context), "")
    if not wanted:
        raise ClusterAccessError("no context is named, and none is current", where=names, hint="Name one: --context.")
    contexts = {one.name: one.context for _, file in reversed(files) for one in file.contexts or ()}
    chosen = contexts.get(wanted)
    if chosen is None:
        known = ", ".join(sorted(contexts)) or "none"
        raise ClusterAccessError(f"there is no context {wanted!r}", where=names, hint=f"There are: {known}.")
    clusters = {one.name: (path, one.cluster) for path, file in reversed(files) for one in file.clusters or ()}
    users = {one.name: (path, one.user) for path, file in reversed(files) for one in file.users or ()}
    if chosen.cluster not in clusters:
        raise ClusterAccessError(
            f"context {wanted!r} names cluster {chosen.cluster!r}, which is not there", where=names
        )
    if chosen.user and chosen.user not in users:
        raise ClusterAccessError(f"context {wanted!r} names user {chosen.user!r}, which is not there", where=names)
    cluster_path, cluster = clusters[chosen.cluster]
    user_path, user = users.get(chosen.user, (cluster_path, _User()))
    if not cluster.server:
        raise ClusterAccessError(f"cluster {chosen.cluster!r} has no server", where=str(cluster_path))
    if cluster.proxy_url and not cluster.proxy_url.startswith(("http://", "https://")):
        raise ClusterAccessError(
            "proxy-url: only http and https proxies are supported", where=str(cluster_path), hint="Name one of these."
        )
    return ClusterAccess(
        server=cluster.server,
        credentials=_credentials(user, cluster, clock=clock, path=user_path),
        ssl_context=_ssl_context(cluster, cluster_path, user, user_path),
        namespace=chosen.namespace or "default",
        server_hostname=cluster.tls_server_name,
        proxy=cluster.proxy_url,
        name=wanted,
    )


def _read(path: Path) -> _File:
    try:
        document = yaml.safe_load(path.read_bytes())
        return msgspec.convert(document if document is not None else {}, _File)
    except OSError as error:
        raise ClusterAccessError(f"the kubeconfig cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())  # a parser's message; it quotes no values
        raise ClusterAccessError(f"not a kubeconfig: {message}", where=str(path)) from error


def _credentials(user: _User, cluster: _Cluster, *, clock: Clock, path: Path) -> Credentials:
    credentials = _own_credentials(user, cluster, clock=clock, path=path)
    if not (user.act_as or user.act_as_uid or user.act_as_groups):
        return credentials
    if user.act_as_groups and len(user.act_as_groups) > 1:
        raise ClusterAccessError(
            "a user that acts as one of several groups is not supported", where=str(path), hint="Name one group."
        )
    headers = {
        "impersonate-user": user.act_as,
        "impersonate-uid": user.act_as_uid,
        "impersonate-group": (user.act_as_groups or [""])[0],
    }
    return WithHeaders(credentials, {name: value for name, value in headers.items() if value})


def _own_credentials(user: _User, cluster: _Cluster, *, clock: Clock, path: Path) -> Credentials:
    if user.auth_provider is not None:
        name = user.auth_provider.get("name", "")
        raise ClusterAccessError(
            f"auth-provider {name!r} is not supported; Kubernetes dropped these in 1.26",
            where=str(path),
            hint="Have your cloud's tool write the kubeconfig anew: it will name an exec plugin.",
        )
    if user.exec is not None:
        return ExecPlugin(_plugin(user.exec, cluster, path), clock=clock)
    if user.token_file:
        return TokenFile(path.parent / user.token_file, clock=clock)
    if user.token:
        return FixedHeaders(bearer(user.token))
    if user.username:
        return FixedHeaders(basic(user.username, user.password))
    return FixedHeaders()


def _plugin(plugin: _Exec, cluster: _Cluster, path: Path) -> PluginCommand:
    if plugin.api_version not in API_VERSIONS:
        raise ClusterAccessError(
            f"the exec plugin speaks {plugin.api_version!r}", where=str(path), hint=f"Known: {', '.join(API_VERSIONS)}."
        )
    program = plugin.command
    if os.sep in program:
        program = str(path.parent / program)
    told = {
        "server": cluster.server,
        "certificate-authority-data": cluster.certificate_authority_data,
        "tls-server-name": cluster.tls_server_name,
        "proxy-url": cluster.proxy_url,
    }
    return PluginCommand(
        api_version=plugin.api_version,
        program=program,
        arguments=tuple(plugin.args or ()),
        environment=tuple((one.name, one.value) for one in plugin.env or ()),
        install_hint=plugin.install_hint,
        cluster={name: value for name, value in told.items() if value} if plugin.provide_cluster_info else None,
    )


def _ssl_context(cluster: _Cluster, cluster_path: Path, user: _User, user_path: Path) -> ssl.SSLContext | None:
    if not cluster.server.startswith("https://"):
        return None
    authority = _pem(cluster.certificate_authority_data, cluster.certificate_authority, cluster_path)
    if authority and cluster.insecure_skip_tls_verify:
        raise ClusterAccessError(
            "a certificate authority and insecure-skip-tls-verify contradict each other", where=str(cluster_path)
        )
    context = trusting(authority, where=str(cluster_path)) if authority else ssl.create_default_context()
    if cluster.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = _pem(user.client_certificate_data, user.client_certificate, user_path)
    key = _pem(user.client_key_data, user.client_key, user_path)
    if bool(certificate) != bool(key):
        raise ClusterAccessError("a client certificate needs its key, and a key its certificate", where=str(user_path))
    if certificate:
        _load_pair(context, certificate, key, where=str(user_path))
    return context


def _pem(data: str, file: str, path: Path) -> bytes:
    try:
        if data:
            return base64.b64decode(data, validate=True)
        return (path.parent / file).read_bytes() if file else b""
    except binascii.Error as error:
        raise ClusterAccessError("certificate data is not base64", where=str(path)) from error
    except OSError as error:
        raise ClusterAccessError(f"{file} cannot be read: {error.strerror}", where=str(path)) from error


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes, *, where: str) -> None:
    # The ssl module takes these from files only. The file is ours alone, and gone before the first request.
    descriptor, name = tempfile.mkstemp(prefix="lightship-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate.rstrip() + b"\n" + key.rstrip() + b"\n")
        context.load_cert_chain(name, password=lambda: b"")  # an encrypted key must not ask on the terminal
    except (ssl.SSLError, ValueError) as error:
        raise ClusterAccessError(f"the client certificate and its key cannot be used: {error}", where=where) from error
    finally:
        with suppress(OSError):
            Path(name).unlink()
