"""How the gateway itself is run: processes, TLS, web pages, the access log."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lightship.spec.base import StrictModel

_FilePath = Annotated[str, Field(min_length=1, max_length=4096, examples=["/etc/lightship/tls.crt"])]
_Origin = Annotated[
    str,
    Field(
        pattern=r"^(\*|https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?)$",
        max_length=300,
        examples=["https://app.example.com"],
    ),
]


class TlsSpec(StrictModel):
    """Encrypted connections; new content of the files is used without a restart."""

    cert_file: _FilePath = Field(description="Path of the certificate with its chain, PEM.")
    key_file: _FilePath = Field(description="Path of the private key, PEM without a password.")


class CorsSpec(StrictModel):
    """Web pages that may call the gateway from a browser."""

    origins: Annotated[tuple[_Origin, ...], Field(strict=False)] = Field(
        min_length=1, max_length=100, description="Origins such as https://app.example.com, or * for all."
    )
    max_age_s: int = Field(default=600, ge=0, le=86_400, description="How long browsers may rely on it, in seconds.")


class AccessLogSpec(StrictModel):
    """One line of JSON per request, never with prompts or answers."""

    enabled: bool = Field(default=True, description="Whether it is written.")
    file: _FilePath = Field(default="stderr", description="Path of its file, or `stderr` for standard error.")
