"""What `evaluate` and `bench` may be pointed at: a variant of the spec, an endpoint, or an earlier run's record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lightship.errors import UsageError

_SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class VariantSubject:
    """A variant of the spec, by name; a worker is started for it."""

    name: str


@dataclass(frozen=True)
class EndpointSubject:
    """A model behind an OpenAI-compatible endpoint that runs already."""

    base_url: str
    model: str


@dataclass(frozen=True)
class RecordSubject:
    """The record of an earlier evaluation; nothing runs."""

    path: Path


Subject = VariantSubject | EndpointSubject | RecordSubject


def parse_subject(text: str, *, default_model: str | None) -> Subject:
    """The subject that a command-line argument names.

    `http://host:port#model` is an endpoint (without `#model` the default model), `name.json` a record, everything else
    the name of a variant.

    Raises: UsageError: an endpoint without host or model, credentials in the address, or an empty text.
    """
    if text.startswith(_SCHEMES):
        return _parse_endpoint(text, default_model=default_model)
    if text.endswith(".json"):
        return RecordSubject(Path(text))
    if not text or "/" in text:
        raise UsageError(
            "neither a variant's name, nor an address, nor a record",
            where=text or "(empty)",
            hint="Give a variant such as int8, an endpoint such as http://127.0.0.1:8000#model, or a record.json.",
        )
    return VariantSubject(text.split("@", 1)[0])


def _parse_endpoint(text: str, *, default_model: str | None) -> EndpointSubject:
    parts = urlsplit(text)
    if not parts.hostname:
        raise UsageError("the address has no host", where=text)
    if parts.username or parts.password:
        raise UsageError(
            "the address carries credentials, which would end up in records",
            where=f"{parts.scheme}://...@{parts.hostname}",
            hint="Put the key into an environment variable and name it with --api-key-env.",
        )
    model = parts.fragment or default_model
    if not model:
        raise UsageError(
            "which model of the endpoint?", where=text, hint="Add it as #model, or give --model.",
        )  # fmt: skip
    base = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
    return EndpointSubject(base, model)
