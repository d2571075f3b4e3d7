"""References of container images, as a spec may name them: always with a tag or a digest."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

# A reference with a tag or a digest, as registries read it; the host may have a port.
# Source: https://github.com/distribution/reference (grammar in its package comment).
_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?/)"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_REFERENCE = re.compile(rf"{_HOST}?{_PATH}(?:/{_PATH})*(?::(?P<tag>{_TAG}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?")
_REPOSITORY = re.compile(rf"{_HOST}?{_PATH}(?:/{_PATH})*")


def image_problem(reference: str) -> str:
    """What is wrong with an image's reference, as the end of a sentence; "" where nothing is.

    >>> image_problem("ghcr.io/org/gateway:1.2"), image_problem("org/gateway")
    ('', 'has neither tag nor digest; write org/gateway:TAG or org/gateway@sha256:...')
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return "is no image reference; write [HOST/]NAME:TAG in small letters"
    if found["tag"] is None and found["digest"] is None:
        return f"has neither tag nor digest; write {reference}:TAG or {reference}@sha256:..."
    if found["tag"] == "latest" and found["digest"] is None:
        return "has the tag `latest`, which means something else every day; name a version or a digest"
    return ""


def _checked_image(reference: str) -> str:
    if reference != "auto" and (problem := image_problem(reference)):
        raise ValueError(f"{reference!r} {problem}")
    return reference


def _checked_or_none(reference: str) -> str:
    return reference if reference == "none" else _checked_image(reference)


def _checked_repository(name: str) -> str:
    if _REPOSITORY.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no repository; write [HOST/]NAME in small letters, without a tag")
    return name


ImageField = Annotated[str, AfterValidator(_checked_image), Field(min_length=1, max_length=512)]
OptionalImageField = Annotated[str, AfterValidator(_checked_or_none), Field(min_length=1, max_length=512)]
RepositoryField = Annotated[str, AfterValidator(_checked_repository), Field(min_length=1, max_length=255)]
