"""Writes what was rendered: into a folder that is new, empty, or our own; files of others are never touched.

Our own is a folder with a marker that lists what was written and the SHA-256 of each file. What a rendering no longer
has is removed if it is as it was written; what somebody changed stays, and is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lightship.deploy.document import MANAGED_BY, Document, Rendered
from lightship.errors import StorageFullError, UsageError

MARKER = ".lightship-deploy"  # without .json: kubectl would take it for a resource
_ENOSPC = {28, 122}


@dataclass(frozen=True)
class Written:
    """What came of it: files that are there, those removed, and those kept because they were changed by hand."""

    written: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]


def write_rendered(rendered: Rendered, folder: Path) -> Written:
    """Writes all documents, each under a temporary name first.

    Raises:
        UsageError: the folder is not ours, is of another platform, is no folder, or cannot be written.
        StorageFullError: the disk is full.
    Effects: makes the folder; replaces files written before; removes those that are no longer rendered.
    """
    before = _files_before(folder, rendered.platform)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        now = {one.path: one for one in rendered.documents}
        kept = _changed_by_hand(folder, before, now)
        _refuse_strangers(folder, before, now)
        _write(folder, MARKER, _marker(rendered, {**before, **_sums(rendered.documents)}), is_executable=False)
        for one in rendered.documents:
            _write(folder, one.path, one.content, is_executable=one.is_executable)
        gone = [path for path in before if path not in now and path not in kept]
        for path in gone:
            (folder / path).unlink(missing_ok=True)
            _remove_empty(folder, PurePosixPath(path).parent)
        _write(folder, MARKER, _marker(rendered, _sums(rendered.documents)), is_executable=False)
    except OSError as error:
        if error.errno in _ENOSPC:
            raise StorageFullError("the disk is full", where=str(folder), hint="Free some space.") from error
        raise UsageError(f"cannot be written: {error.strerror}", where=str(error.filename or folder)) from error
    return Written(tuple(now), tuple(gone), tuple(kept))


def _sums(documents: tuple[Document, ...]) -> dict[str, str]:
    return {one.path: hashlib.sha256(one.content.encode()).hexdigest() for one in documents}


def _marker(rendered: Rendered, files: dict[str, str]) -> str:
    content = {"managed_by": MANAGED_BY, "platform": rendered.platform, "files": files}
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _files_before(folder: Path, platform: str) -> dict[str, str]:
    """Files of an earlier rendering with their sums. Raises: UsageError: the folder is somebody else's."""
    if not folder.exists():
        return {}
    if not folder.is_dir():
        raise UsageError(
            "it is a file, and a folder is written", where=str(folder), hint="Choose another name with -o."
        )
    try:
        content = json.loads((folder / MARKER).read_bytes())
        files = content["files"]
        is_ours = content["managed_by"] == MANAGED_BY and all(
            isinstance(path, str) and isinstance(digest, str) and _is_inside(path) for path, digest in files.items()
        )
    except FileNotFoundError:
        if next(folder.iterdir(), None) is None:
            return {}
        is_ours, content, files = False, {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_ours, content, files = False, {}, {}
    if not is_ours:
        what = "the folder was not written by `lightship deploy`, and nothing in it is touched"
        raise UsageError(what, where=str(folder), hint="Choose an empty or a new folder with -o.")
    if content.get("platform") != platform:
        what = f"the folder holds what was rendered for {content.get('platform')}, and this is for {platform}"
        raise UsageError(what, where=str(folder), hint="Choose another folder with -o.")
    return dict(files)


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and path != ""


def _changed_by_hand(folder: Path, before: dict[str, str], now: dict[str, Document]) -> list[str]:
    """Files that are no longer rendered but were changed since."""
    changed = []
    for path, digest in before.items():
        if path in now:
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if hashlib.sha256((folder / path).read_bytes()).hexdigest() != digest:
                changed.append(path)
    return changed


def _refuse_strangers(folder: Path, before: dict[str, str], now: dict[str, Document]) -> None:
    """Raises: UsageError: a file that we did not write is in the place of one that we would."""
    for path in now:
        if path not in before and (folder / path).exists():
            what = "a file that `lightship deploy` did not write is in the place of one that it would"
            raise UsageError(what, where=str(folder / path), hint="Move it away.")


def _write(folder: Path, path: str, content: str, *, is_executable: bool) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.write_text(content, encoding="utf-8")
        partial.chmod(0o755 if is_executable else 0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _parents(path: PurePosixPath) -> Iterator[PurePosixPath]:
    while path != PurePosixPath():
        yield path
        path = path.parent


def _remove_empty(folder: Path, inside: PurePosixPath) -> None:
    for parent in _parents(inside):
        with contextlib.suppress(OSError):
            (folder / parent).rmdir()
