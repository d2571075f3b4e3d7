"""Certificates that can be renewed while connections are open.

A new certificate is loaded into the context that the server uses: connections from then on get it, and those that are
open keep what they began with.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from lightship.errors import UsageError
from lightship.gateway.server_config import TlsConfig


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
    """A server's context with this certificate.

    Raises: UsageError: see `load_certificate`.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, tls)
    return context


def load_certificate(context: ssl.SSLContext, tls: TlsConfig) -> None:
    """Effects: new connections get the certificate in these files; the context stays as it was when they are no good.

    Raises: UsageError: a file cannot be read, is not PEM, or the two do not belong together.
    """
    for file in (tls.cert_file, tls.key_file):
        try:
            Path(file).read_bytes()
        except OSError as error:
            hint = "Name PEM files that this user may read in gateway.tls."
            raise UsageError(f"the TLS file cannot be read: {error.strerror}", where=file, hint=hint) from error
    trial = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for target in (trial, context):
        try:
            target.load_cert_chain(tls.cert_file, tls.key_file, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            hint = "Both must be PEM, the key without a password, and belong together."
            what = f"the TLS certificate cannot be used with {tls.key_file}: {_said(error)}"
            raise UsageError(what, where=tls.cert_file, hint=hint) from error


def _no_password() -> str:
    raise ValueError("the key has a password")  # OpenSSL would ask for it on the terminal, and wait


def _said(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error)
