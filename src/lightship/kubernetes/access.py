"""The way into a cluster: where its server is, whom it trusts, and who asks."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lightship.kubernetes.credentials import Credentials, FixedHeaders, TokenFile
from lightship.kubernetes.errors import ClusterAccessError
from lightship.kubernetes.exchange import Exchange
from lightship.kubernetes.http_exchange import HttpExchange
from lightship.ports.clock import Clock

SERVICE_ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class ClusterAccess:
    """Everything a client needs of one cluster.

    Args:
        server: Address of the API server.
        credentials: Who asks.
        ssl_context: None for plain `http`.
        namespace: Where objects go that name none.
        server_hostname: The name on the server's certificate where it is not the address's.
        proxy: Address of a proxy; "" for none.
        name: For people: the context's name, or `in-cluster`.
    """

    server: str
    credentials: Credentials = field(default_factory=FixedHeaders)
    ssl_context: ssl.SSLContext | None = None
    namespace: str = "default"
    server_hostname: str = ""
    proxy: str = ""
    name: str = ""

    def exchange(self) -> Exchange:
        """A new exchange with the server; whoever asks for it closes it."""
        return HttpExchange(
            self.server, ssl_context=self.ssl_context, server_hostname=self.server_hostname, proxy=self.proxy
        )


def in_cluster_access(
    environment: Mapping[str, str], *, clock: Clock, folder: Path = SERVICE_ACCOUNT_FOLDER
) -> ClusterAccess:
    """The way that every Pod with a service account has.

    Raises: ClusterAccessError: this is no Pod, or its account's token is not mounted.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ClusterAccessError(
            "this process does not run in a cluster: KUBERNETES_SERVICE_HOST is not set",
            hint="Run it in a Pod, or name a kubeconfig.",
        )
    if not (folder / "token").is_file():
        raise ClusterAccessError(
            "the Pod has no token of a service account",
            where=str(folder),
            hint="Set automountServiceAccountToken: true for this Pod, and bind its account to the scaler's Role.",
        )
    namespace_file = folder / "namespace"
    return ClusterAccess(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        credentials=TokenFile(folder / "token", clock=clock),
        ssl_context=trusting((folder / "ca.crt").read_bytes(), where=str(folder / "ca.crt")),
        namespace=namespace_file.read_text("utf-8").strip() if namespace_file.is_file() else "default",
        name="in-cluster",
    )


def trusting(authority_pem: bytes, *, where: str) -> ssl.SSLContext:
    """A TLS context that trusts these authorities and no others.

    Raises: ClusterAccessError: they are no certificates.
    """
    try:
        return ssl.create_default_context(cadata=authority_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ClusterAccessError(f"not a certificate authority in PEM: {error}", where=where) from error
