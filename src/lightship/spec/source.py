"""Where a checkpoint comes from: `builtin:NAME`, `./folder` or `/folder`, `hf:org/name@revision`.

Values only: nothing here looks whether the folder or repository exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from lightship.errors import SpecError

_GRAMMAR = "builtin:NAME, ./folder, /folder or hf:org/name@revision"
_BUILTIN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_HUB_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_REPOSITORY = re.compile(f"{_HUB_PART}/{_HUB_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_IN_MODEL_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class BuiltinSource:
    """A model that ships in the package."""

    name: str

    @property
    def default_name(self) -> str:
        """The model name clients send when the spec gives none."""
        return self.name

    def __str__(self) -> str:
        return f"builtin:{self.name}"


@dataclass(frozen=True)
class FolderSource:
    """A folder on this machine, as written: a relative one starts at the current folder."""

    path: Path

    @property
    def default_name(self) -> str:
        """The model name clients send when the spec gives none: the folder's own name."""
        return _NOT_IN_MODEL_NAMES.sub("-", self.path.name).strip("-._")[:96] or "model"

    def __str__(self) -> str:
        text = self.path.as_posix()
        return text if text.startswith(("/", "..")) else f"./{text}"


@dataclass(frozen=True)
class HubSource:
    """A repository of the Hugging Face hub at one revision (branch, tag or commit)."""

    repository: str
    revision: str

    @property
    def default_name(self) -> str:
        """The model name clients send when the spec gives none: the repository without its owner."""
        return self.repository.partition("/")[2]

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, so that the content can never change."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"hf:{self.repository}@{self.revision}"


Source = BuiltinSource | FolderSource | HubSource


def parse_source(text: str) -> Source:
    """The source that `text` names; `str()` of it gives back an equal source.

    Raises: SpecError: the text does not follow the grammar, or names a hub repository without a revision.

    >>> parse_source("hf:org/name@main")
    HubSource(repository='org/name', revision='main')
    """
    if text.startswith("builtin:"):
        return _parse_builtin(text)
    if text.startswith("hf:"):
        return _parse_hub(text)
    if text.startswith(("/", "./", "../")) and "\0" not in text:
        return FolderSource(Path(text))
    raise SpecError(f"{text!r} is not a model source", hint=_folder_hint(text))


def _parse_builtin(text: str) -> BuiltinSource:
    name = text.removeprefix("builtin:")
    if _BUILTIN_NAME.fullmatch(name) is None:
        raise SpecError(f"{text!r} is not a model source", hint="Write builtin:NAME, for example builtin:fairytales.")
    return BuiltinSource(name)


def _parse_hub(text: str) -> HubSource:
    repository, at, revision = text.removeprefix("hf:").partition("@")
    if _HUB_REPOSITORY.fullmatch(repository) is None or ".." in repository:
        raise SpecError(f"{text!r} is not a hub source", hint="Write hf:org/name@revision.")
    if not at:
        hint = f"Pin one, best a commit: hf:{repository}@COMMIT (hf:{repository}@main follows the newest)."
        raise SpecError(f"{text!r} names no revision", hint=hint)
    if _REVISION.fullmatch(revision) is None or ".." in revision:
        raise SpecError(f"{revision!r} is not a revision", hint="Write a branch, a tag or a commit after the @.")
    return HubSource(repository, revision)


def _folder_hint(text: str) -> str:
    if text.startswith("~"):
        return "Write the whole path: a spec does not expand ~."
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", text):
        return f"Write ./{text} for a folder; the grammar is {_GRAMMAR}."
    return f"Write {_GRAMMAR}."


def _validate(value: Any) -> Source:
    if isinstance(value, BuiltinSource | FolderSource | HubSource):
        return value
    if not isinstance(value, str):
        raise ValueError(f"expected {_GRAMMAR}")  # noqa: TRY004 - only a ValueError becomes a field error
    try:
        return parse_source(value)
    except SpecError as error:
        raise ValueError(str(error)) from error


SourceField = Annotated[
    Source,
    PlainValidator(_validate),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(builtin:[a-z0-9]|\.{0,2}/|hf:[^/@]+/[^/@]+@.)",
            "maxLength": 4096,
            "examples": ["builtin:fairytales", "./folder", "hf:org/name@revision"],
        }
    ),
]
