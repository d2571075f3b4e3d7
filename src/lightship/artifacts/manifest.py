"""The manifest file of a variant: written last, read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from lightship.artifacts.digest import check_relative, content_digest
from lightship.errors import ArtifactError, DigestMismatchError
from lightship.ports.variants import Manifest

MANIFEST_NAME = "manifest.json"
# Raised when a manifest written today could be misread by an older lightship.
FORMAT_VERSION = 1


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented JSON, its format version first."""
    content = {"format_version": FORMAT_VERSION, **msgspec.to_builtins(manifest)}
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def decode_manifest(raw: bytes, *, where: str) -> Manifest:
    """The manifest in `raw`.

    Raises:
        ArtifactError: not JSON, another format version, a missing, unknown or mistyped field.
        DigestMismatchError: its digest is not that of the files it lists.
    """
    content = _json_object(raw, where)
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"manifest has format version {version!r}, this lightship reads {FORMAT_VERSION}",
            where=where,
            hint="Update lightship, or remove the variant and build it again.",
        )
    try:
        manifest = msgspec.convert(content, Manifest)
    except msgspec.ValidationError as error:
        raise _damaged(str(error), where) from error
    unknown = sorted(content.keys() - msgspec.to_builtins(manifest).keys())
    if unknown:
        raise _damaged(f"unknown field {unknown[0]!r}", where)
    for entry in manifest.files:
        check_relative(entry.path)
    if content_digest(manifest.files) != manifest.digest:
        raise DigestMismatchError(
            "the manifest's digest is not that of the files it lists", where=where, hint=rebuild_hint(manifest.digest)
        )
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the variant in `folder`.

    Raises: ArtifactError: there is none, or see `decode_manifest`.
    """
    path = folder / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError("the variant has no manifest", where=str(folder), hint=rebuild_hint(folder.name)) from error
    return decode_manifest(raw, where=str(path))


def rebuild_hint(digest: str) -> str:
    """What to do about a variant that is not what it should be."""
    return f"Run `lightship artifacts rm {digest}`; the variant is made again when it is next needed."


def _json_object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise _damaged(str(error), where) from error
    if not isinstance(content, dict):
        raise _damaged("not a JSON object", where)
    return content


def _damaged(what: str, where: str) -> ArtifactError:
    return ArtifactError(f"manifest is damaged: {what}", where=where, hint=rebuild_hint(Path(where).parent.name))
