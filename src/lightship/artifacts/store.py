"""Content-addressed store of variants, shared by any number of processes.

    <root>/variants/<hex>/          a variant's files and `manifest.json`, written last; appears by rename
    <root>/builds/<build key>.json  which digest answers a build key
    <root>/partial/<build key>.*/   a build under way; a leftover once nobody holds the build key's lock
    <root>/verified/<hex>.json      digests of files by size, time and inode, so that a second check is quick
    <root>/locks/                   build-<build key>.lock, held while building; variant-<hex>.lock, shared while in use

A folder below `variants/` is complete or not there. Ours rather than a library's: a few hundred lines of rename and
`flock`, and the manifest is the product's own record.
"""

from __future__ import annotations

import errno
import logging
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lightship.artifacts.build_records import BuildRecords
from lightship.artifacts.digest import DigestCache, content_digest, file_entries, file_sha256, list_files
from lightship.artifacts.disk import check_free, folder_bytes, full_disk_as_storage_error, sync_folder, write_durably
from lightship.artifacts.file_rules import check_variant_file
from lightship.artifacts.locks import LockTimeoutError, try_lock, wait_lock
from lightship.artifacts.manifest import MANIFEST_NAME, encode_manifest, read_manifest, rebuild_hint
from lightship.errors import ArtifactError, DigestMismatchError
from lightship.ports.clock import Clock
from lightship.ports.variants import BuildCost, Manifest, Recipe, Variant, WeightFormat

_LOGGER = logging.getLogger(__name__)
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEX_PREFIX = re.compile(r"[0-9a-f]{4,64}")
# Longer than any build step may take (its own limit is hours), so that only a hung holder is ever reported.
_DEFAULT_MAX_WAIT_S = 5 * 3600.0


@dataclass(frozen=True)
class VariantDescription:
    """What a builder knows of its result; the store adds digest, files and time to make the manifest."""

    name: str
    model_name: str
    weight_format: WeightFormat
    parent_digest: str
    recipe: Recipe
    build_key: str
    tool_versions: dict[str, str]
    weight_bytes: int
    num_parameters: int
    context_length: int
    source: str
    inputs: dict[str, str] = field(default_factory=dict)
    cost: BuildCost | None = None


@dataclass(frozen=True)
class DamagedVariant:
    """A folder of the store whose manifest cannot be used."""

    folder: Path
    error: ArtifactError


class ArtifactStore:
    """Variants below one folder. Every method may be called by several processes at once.

    Args:
        root: Folder of the store; made when something is stored.
        clock: Stamps manifests and limits waiting.
    """

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._records = BuildRecords(root / "builds")

    @property
    def root(self) -> Path:
        """Folder of the store."""
        return self._root

    def find(self, build_key: str) -> Variant | None:
        """The variant that answers the build key, or None when it was not built or was removed.

        Raises: ArtifactError: it is there but its manifest is damaged.
        """
        digest = self._records.digest_for(build_key)
        folder = self._folder(digest) if digest else None
        return _load(folder) if folder is not None and folder.is_dir() else None

    def build(
        self,
        build_key: str,
        describe: Callable[[Path], VariantDescription],
        builder: Callable[[Path], None],
        *,
        estimated_bytes: int = 0,
        max_wait_s: float = _DEFAULT_MAX_WAIT_S,
        on_wait: Callable[[str], None] = _LOGGER.info,
    ) -> Variant:
        """The variant that answers the build key: found, or made by `builder` in this call.

        Of several processes asking at once one builds; the others wait and find its result.

        Args:
            build_key: Letters, digits, `-` and `_`: names parent, recipe and tools.
            describe: Looks at the finished folder.
            builder: Fills the empty folder it is given.
            estimated_bytes: Refuse before any work when less is free.
            max_wait_s: How long to wait for another process that builds the same.
            on_wait: Told, in a sentence for people, when there is someone to wait for.

        Raises:
            StorageFullError: not enough disk, before or during the build.
            UnsafeCheckpointError: the builder wrote a pickle, a program or a kind of file no variant needs.
            ArtifactError: another process kept building all the time, or nothing was written.
        Effects: on any exception, Ctrl-C included, what was half-written is removed.
        """
        if (found := self.find(build_key)) is not None:
            return found
        lock_path, short_key = self._build_lock(build_key), build_key[:12]
        told = f"waiting for another process that builds {short_key}"
        try:
            with (
                full_disk_as_storage_error(self._root),
                wait_lock(lock_path, self._clock, max_wait_s=max_wait_s, on_wait=lambda: on_wait(told)),
            ):
                if (found := self.find(build_key)) is not None:
                    return found
                check_free(self._root, estimated_bytes)
                return self._build_locked(build_key, describe, builder)
        except LockTimeoutError as error:
            raise ArtifactError(
                f"another process has been building {short_key} for more than {max_wait_s:.0f} s",
                where=str(lock_path),
                hint="Stop it, or wait for its end.",
            ) from error

    def open(self, reference: str) -> Variant:
        """The variant named by a digest, the first four or more hex digits of one, `name` or `model/name`.

        Raises: ArtifactError: none or several match.
        """
        variants = self.ls()
        hex_digest = self._hex_of(reference)
        matches = [v for v in variants if v.folder.name == hex_digest] or [
            v for v in variants if reference in _names_of(v.manifest)
        ]
        if not matches:
            raise self._unknown(reference)
        if len(matches) > 1:
            candidates = ", ".join(f"{v.manifest.short_digest} ({v.manifest.model_name})" for v in matches)
            raise ArtifactError(f"{reference!r} names several variants", hint=f"Use a digest: {candidates}.")
        return matches[0]

    def verify(self, variant: Variant, *, full: bool = False) -> None:
        """Returns when the folder holds exactly the files of its manifest.

        A file whose size, modification time and inode are those of an earlier check is not hashed again, which makes a
        second start fast but does not notice a byte changed without changing these; `full` hashes every file.

        Raises:
            DigestMismatchError: names the first file that is missing, extra or different.
            ArtifactError: the manifest is gone or damaged, or a symbolic link is among the files.
        """
        folder, manifest = variant.folder, variant.manifest
        if read_manifest(folder) != manifest:
            raise _mismatch(folder / MANIFEST_NAME, "the manifest is another one than when it was read", manifest)
        present = {path.relative_to(folder).as_posix(): path for path in list_files(folder)}
        expected = {entry.path: entry for entry in manifest.files}
        cache = DigestCache(self._verified_path(folder.name))
        for path in sorted((present.keys() | expected.keys()) - {MANIFEST_NAME}):
            if path not in present:
                raise _mismatch(folder / path, "the file is missing", manifest)
            if path not in expected:
                raise _mismatch(folder / path, "the file is not part of the variant", manifest)
            num_bytes = present[path].stat().st_size
            if num_bytes != expected[path].num_bytes:
                what = f"the file has {num_bytes} bytes instead of {expected[path].num_bytes}"
                raise _mismatch(folder / path, what, manifest)
            if (file_sha256 if full else cache.sha256)(present[path]) != expected[path].sha256:
                raise _mismatch(folder / path, "the file's content is not what was built", manifest)
        cache.save()

    def ls(self) -> list[Variant]:
        """Every variant with a sound manifest, oldest first. See `damaged` for the others."""
        variants = [found for found in self._scan() if isinstance(found, Variant)]
        return sorted(variants, key=lambda v: (v.manifest.created_unix_s, v.manifest.digest))

    def damaged(self) -> list[DamagedVariant]:
        """Folders whose manifest is missing, damaged or of another format version."""
        return [found for found in self._scan() if isinstance(found, DamagedVariant)]

    @contextmanager
    def in_use(self, variant: Variant) -> Iterator[None]:
        """Keeps the variant from being removed while the block runs, whichever process tries.

        Raises: ArtifactError: it was removed before.
        """
        with try_lock(self._variant_lock(variant.folder.name), shared=True) as is_held:
            if not is_held or not variant.folder.is_dir():
                raise ArtifactError(
                    f"variant {variant.manifest.short_digest} was removed",
                    where=str(variant.folder),
                    hint="Build it again.",
                )
            yield

    def rm(self, digest: str) -> int:
        """Removes a variant, sound or damaged, and what refers to it; gives back the bytes it took.

        Args:
            digest: `sha256:<hex>`, or the first four or more hex digits when only one variant has them.

        Raises: ArtifactError: there is none, or a process uses it.
        """
        hex_digest = self._hex_of(digest)
        folder = self._folder(hex_digest)
        if _HEX_DIGEST.fullmatch(hex_digest) is None or not folder.is_dir():
            raise self._unknown(digest)
        lock_path = self._variant_lock(hex_digest)
        removal_key = f"removed-{hex_digest}"
        with try_lock(lock_path) as is_free, try_lock(self._build_lock(removal_key)):
            if not is_free:
                raise ArtifactError(
                    f"variant {hex_digest[:12]} is in use", where=str(folder), hint="Stop what serves it first."
                )
            freed_bytes = folder_bytes(folder)
            for key in self._records.keys_of(f"sha256:{hex_digest}"):
                self._records.remove(key)
            self._verified_path(hex_digest).unlink(missing_ok=True)
            # Out of `variants/` in one step, so that an interrupted removal leaves no half variant.
            doomed = self._partial_folder(removal_key)
            folder.rename(doomed / hex_digest)
            shutil.rmtree(doomed, ignore_errors=True)
            lock_path.unlink(missing_ok=True)
        return freed_bytes

    def gc(self, keep: Collection[str] = ()) -> int:
        """Frees what nothing refers to; gives back the bytes.

        Removed are variants that answer no build key, leftovers of builds whose process ended, build records without
        variant and locks nobody holds. Variants in use and the digests in `keep` stay.
        """
        freed_bytes = self._remove_stale_partials() + self._remove_unreferenced(keep)
        for path in sorted((self._root / "locks").glob("*.lock")):
            with try_lock(path) as is_free:
                if is_free:
                    path.unlink(missing_ok=True)
        return freed_bytes

    # ---- building

    def _build_locked(
        self, build_key: str, describe: Callable[[Path], VariantDescription], builder: Callable[[Path], None]
    ) -> Variant:
        partial = self._partial_folder(build_key)
        try:
            with full_disk_as_storage_error(self._root, written_in=partial):
                builder(partial)
                manifest = self._seal(partial, describe)
                # The record first: without its folder it says nothing, while a folder without record is garbage.
                self._records.write(build_key, manifest.digest)
                return self._publish(partial, manifest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # renamed away when all went well

    def _seal(self, folder: Path, describe: Callable[[Path], VariantDescription]) -> Manifest:
        """Checks, describes, hashes and flushes the files, then writes the manifest."""
        (folder / MANIFEST_NAME).unlink(missing_ok=True)  # a copy of another variant brings the old one
        paths = list_files(folder)
        if not paths:
            raise ArtifactError("the build wrote no files", where=folder.name.partition(".")[0])
        for path in paths:
            check_variant_file(path)
        description = describe(folder)
        files = file_entries(folder, paths)
        created_unix_s = self._clock.unix_s()
        manifest = Manifest(
            digest=content_digest(files), files=files, created_unix_s=created_unix_s, **vars(description)
        )
        sync_folder(folder)
        write_durably(folder / MANIFEST_NAME, encode_manifest(manifest))
        return manifest

    def _publish(self, partial: Path, manifest: Manifest) -> Variant:
        """Renames the finished folder to its place; equal content that is there already and sound stays."""
        target = self._folder(manifest.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and (sound := self._sound_or_removed(target)) is not None:
            return sound
        try:
            partial.rename(target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return _load(target)  # another build key gave the same content in this moment
        sync_folder(target.parent, recursive=False)
        return Variant(manifest, target)

    def _sound_or_removed(self, folder: Path) -> Variant | None:
        """The variant in `folder` if every byte is right; else None, and the folder is gone but its records stay."""
        try:
            existing = _load(folder)
            self.verify(existing, full=True)
            return existing
        except ArtifactError:
            _LOGGER.warning("replacing the damaged variant %s", folder.name[:12])
        digest = f"sha256:{folder.name}"
        keys = self._records.keys_of(digest)
        self.rm(digest)
        for key in keys:
            self._records.write(key, digest)
        return None

    def _partial_folder(self, key: str) -> Path:
        folder = self._root / "partial" / f"{key}.{secrets.token_hex(6)}"
        folder.mkdir(parents=True)
        return folder

    # ---- places

    def _folder(self, digest: str) -> Path:
        return self._root / "variants" / digest.removeprefix("sha256:")

    def _build_lock(self, build_key: str) -> Path:
        return self._root / "locks" / f"build-{build_key}.lock"

    def _variant_lock(self, hex_digest: str) -> Path:
        return self._root / "locks" / f"variant-{hex_digest}.lock"

    def _verified_path(self, hex_digest: str) -> Path:
        return self._root / "verified" / f"{hex_digest}.json"

    def _scan(self) -> Iterator[Variant | DamagedVariant]:
        """Each folder of a variant, read now; one that is removed meanwhile is left out."""
        for folder in sorted((self._root / "variants").glob("*/")):
            try:
                yield _load(folder)
            except ArtifactError as error:
                if folder.is_dir():
                    yield DamagedVariant(folder, error)

    def _hex_of(self, reference: str) -> str:
        """The whole hex digest that `reference` is or begins, or `reference` as it is."""
        prefix = reference.removeprefix("sha256:")
        if _HEX_PREFIX.fullmatch(prefix) is None:
            return reference
        matches = sorted(path.name for path in (self._root / "variants").glob(f"{prefix}*"))
        if len(matches) > 1:
            raise ArtifactError(f"{reference!r} begins several digests", hint=f"They are {', '.join(matches)}.")
        return matches[0] if matches else reference

    def _unknown(self, reference: str) -> ArtifactError:
        hint = "See `lightship artifacts ls`."
        return ArtifactError(f"there is no variant {reference!r}", where=str(self._root), hint=hint)

    # ---- garbage

    def _remove_stale_partials(self) -> int:
        freed_bytes = 0
        for folder in sorted((self._root / "partial").glob("*")):
            with try_lock(self._build_lock(folder.name.partition(".")[0])) as is_free:
                if is_free:
                    freed_bytes += folder_bytes(folder)
                    shutil.rmtree(folder, ignore_errors=True)
        return freed_bytes

    def _remove_unreferenced(self, keep: Collection[str]) -> int:
        freed_bytes = 0
        kept = {digest.removeprefix("sha256:") for digest in keep}
        for folder in sorted((self._root / "variants").glob("*/")):
            if folder.name in kept or self._records.keys_of(f"sha256:{folder.name}"):
                continue
            try:
                freed_bytes += self.rm(folder.name)
            except ArtifactError as error:
                _LOGGER.info("kept: %s", error)
        for key, digest in self._records.all().items():
            with try_lock(self._build_lock(key)) as is_free:
                if is_free and (digest is None or not self._folder(digest).is_dir()):
                    self._records.remove(key)
        return freed_bytes


def _load(folder: Path) -> Variant:
    """The variant in `folder`, whose name is its digest."""
    manifest = read_manifest(folder)
    if manifest.digest != f"sha256:{folder.name}":
        raise _mismatch(folder / MANIFEST_NAME, f"the manifest is that of {manifest.short_digest}", manifest)
    return Variant(manifest, folder)


def _names_of(manifest: Manifest) -> tuple[str, str]:
    return manifest.name, f"{manifest.model_name}/{manifest.name}"


def _mismatch(path: Path, what: str, manifest: Manifest) -> DigestMismatchError:
    return DigestMismatchError(what, where=str(path), hint=rebuild_hint(manifest.short_digest))
