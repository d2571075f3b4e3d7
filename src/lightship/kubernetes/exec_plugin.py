"""Credentials that a program gives, as kubeconfig's `exec` names it (`aws eks get-token`, `gke-gcloud-auth-plugin`).

Source: the client authentication API, `client.authentication.k8s.io/v1` and `v1beta1`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from lightship.kubernetes.credentials import bearer
from lightship.kubernetes.errors import ClusterAccessError
from lightship.ports.clock import Clock

API_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
# A plugin may open a browser for a login.
_LIMIT_S = 120.0
_MOST_OUTPUT_BYTES = 256 * 2**10
# A token this close to its end is replaced, so that it does not end on its way.
_MARGIN_S = 10.0


class _CredentialStatus(msgspec.Struct):
    token: str = ""
    expirationTimestamp: str = ""  # noqa: N815 # the name on the wire
    clientCertificateData: str = ""  # noqa: N815


class _Credential(msgspec.Struct):
    apiVersion: str  # noqa: N815
    kind: str
    status: _CredentialStatus | None = None


@dataclass(frozen=True)
class PluginCommand:
    """What is run. `environment` is added to this process's; `install_hint` is shown where the program is missing.

    `cluster` is what the plugin is told of the cluster, None where it did not ask (`provideClusterInfo`).
    """

    api_version: str
    program: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    install_hint: str = ""
    cluster: Mapping[str, str] | None = None


class ExecPlugin:
    """The token a program prints, kept until it ends or is refused.

    Args:
        command: The program.
        clock: Time.
        limit_s: Longest time that it may take.

    Concurrency: one run at a time; whoever comes meanwhile waits for its token.
    """

    def __init__(self, command: PluginCommand, *, clock: Clock, limit_s: float = _LIMIT_S) -> None:
        self._command = command
        self._clock = clock
        self._limit_s = limit_s
        self._token = ""
        self._ends_unix_s = float("inf")
        self._running = asyncio.Lock()

    async def headers(self) -> Mapping[str, str]:
        """See `Credentials`."""
        async with self._running:
            if not self._token or self._clock.unix_s() >= self._ends_unix_s - _MARGIN_S:
                self._token, self._ends_unix_s = self._parsed(await self._output())
            return bearer(self._token)

    def reject(self) -> None:
        """See `Credentials`."""
        self._token = ""

    async def _output(self) -> bytes:
        command = self._command
        spec: dict[str, object] = {"interactive": False}
        if command.cluster is not None:
            spec["cluster"] = dict(command.cluster)
        told = {"apiVersion": command.api_version, "kind": "ExecCredential", "spec": spec}
        environment = {**os.environ, **dict(command.environment)}
        environment["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(told).decode()
        try:
            process = await asyncio.create_subprocess_exec(
                command.program,
                *command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            raise ClusterAccessError(
                f"the credential plugin cannot be started: {error.strerror or error}",
                where=command.program,
                hint=command.install_hint or "Install it, or name another user in the kubeconfig.",
            ) from error
        try:
            async with asyncio.timeout(self._limit_s):
                output, _ = await process.communicate()
        except TimeoutError as error:
            raise ClusterAccessError(
                f"the credential plugin gave nothing within {self._limit_s:g} s", where=command.program
            ) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            raise ClusterAccessError(
                f"the credential plugin ended with status {process.returncode}",
                where=command.program,
                hint="Its own message is above; log in as it asks.",
            )
        return output[:_MOST_OUTPUT_BYTES]

    def _parsed(self, output: bytes) -> tuple[str, float]:
        where = self._command.program
        try:
            credential = msgspec.json.decode(output, type=_Credential)
            ends = credential.status.expirationTimestamp if credential.status else ""
            ends_unix_s = datetime.fromisoformat(ends).timestamp() if ends else float("inf")
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
            message = "the credential plugin printed no ExecCredential"
            raise ClusterAccessError(message, where=where) from error
        if credential.kind != "ExecCredential" or credential.apiVersion != self._command.api_version:
            raise ClusterAccessError(
                f"the credential plugin printed {credential.apiVersion} {credential.kind}, and "
                f"{self._command.api_version} ExecCredential was asked for",
                where=where,
            )
        if credential.status is None or not credential.status.token:
            has_certificate = credential.status is not None and credential.status.clientCertificateData
            what = "a client certificate and no token" if has_certificate else "no token"
            raise ClusterAccessError(
                f"the credential plugin gave {what}",
                where=where,
                hint="Use a user with a token, or with a certificate of its own in the kubeconfig.",
            )
        return credential.status.token, ends_unix_s
