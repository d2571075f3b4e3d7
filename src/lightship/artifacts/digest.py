"""Digests of files and of folders of files.

A folder's digest says nothing about names of its parents, times, owners or permissions: two folders with the same files
have the same digest on any machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from lightship.errors import ArtifactError
from lightship.ports.variants import FileEntry

# Large enough that the interpreter's part in hashing is lost in the noise, small enough to stay in a CPU's cache.
_CHUNK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def content_digest(entries: Iterable[FileEntry]) -> str:
    """`sha256:<hex>` over the entries in the order of their paths.

    Each entry is hashed as the JSON array [path, bytes, sha256] on a line of its own, so no two lists of entries run
    into the same text.

    Raises: ArtifactError: a path is absolute, leaves its folder or is listed twice.
    """
    digest = hashlib.sha256()
    previous = None
    for entry in sorted(entries, key=lambda entry: entry.path):
        check_relative(entry.path)
        if entry.path == previous:
            raise ArtifactError(f"{entry.path!r} is listed twice")
        previous = entry.path
        line = json.dumps([entry.path, entry.num_bytes, entry.sha256], ensure_ascii=True, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"


def check_relative(path: str) -> None:
    """Returns when `path` stays inside whatever folder it is joined to.

    Raises: ArtifactError: it is empty, absolute, not in its shortest form, or has `..` in it.
    """
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or pure.as_posix() != path or path == "." or "\0" in path:
        raise ArtifactError(f"{path!r} is not a path inside a folder")


def list_files(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted by relative path.

    Raises: ArtifactError: a symbolic link or a thing that is neither file nor folder: their content is not theirs.
    """
    return sorted(_walk(folder), key=lambda path: path.relative_to(folder).as_posix())


def _walk(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as children:
        for child in children:
            path = Path(child.path)
            if child.is_symlink():
                raise ArtifactError("symbolic links are not part of an artifact", where=str(path))
            if child.is_dir():
                yield from _walk(path)
            elif child.is_file():
                yield path
            else:
                raise ArtifactError("this is neither a file nor a folder", where=str(path))


def file_entries(
    folder: Path, paths: Iterable[Path], *, sha256: Callable[[Path], str] = file_sha256
) -> tuple[FileEntry, ...]:
    """Entries of the given files of `folder`, sorted by path.

    Args:
        sha256: How to hash one file; a `DigestCache` brings one that remembers.
    """
    entries = (FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path)) for path in paths)
    return tuple(sorted(entries, key=lambda entry: entry.path))


def folder_entries(folder: Path) -> tuple[FileEntry, ...]:
    """Entries of every file below `folder`, hashed now.

    Raises: ArtifactError: see `list_files`.
    """
    return file_entries(folder, list_files(folder))


class DigestCache:
    """Remembers SHA-256 digests of files by (path, size, modification time, inode), in one JSON file.

    This makes a second start fast; it does not notice a byte that changed while size, time and inode stayed the same (a
    failing disk, or someone who set the time back). Whoever must know hashes the file again with `file_sha256`.

    A missing or unreadable cache file is an empty cache: nothing but time is lost.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = self._read()
        self._is_changed = False

    def sha256(self, path: Path) -> str:
        """The file's digest, remembered or computed now.

        Effects: the digest is kept once `save` is called.
        """
        name, stamp = str(path.absolute()), _stamp(path)
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = file_sha256(path)
        # A file that was written during the hashing gets no entry: its stamp would vouch for other content.
        if _stamp(path) == stamp:
            self._known[name] = (stamp, digest)
            self._is_changed = True
        return digest

    def save(self) -> None:
        """Writes the cache if it changed.

        Effects: replaces the cache file at once; a full disk or read-only folder is not an error, only a slower start.
        """
        if not self._is_changed:
            return
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(self._known))
            temporary.replace(self._path)
            self._is_changed = False
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _read(self) -> dict[str, tuple[tuple[int, int, int], str]]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, tuple[tuple[int, int, int], str]])
        except (OSError, msgspec.DecodeError):
            return {}


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
