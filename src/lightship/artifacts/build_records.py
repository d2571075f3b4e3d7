"""Which variant answers which build key: one small file per build key."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from lightship.artifacts.disk import write_durably
from lightship.errors import ArtifactError

_BUILD_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class BuildRecords:
    """The records in one folder. A record may outlive its variant; then it says nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def digest_for(self, build_key: str) -> str | None:
        """Digest of the variant that answers the key; None without a readable record, which makes the build run again.

        Raises: ArtifactError: not a build key.
        """
        return _digest_in(self._path(build_key))

    def write(self, build_key: str, digest: str) -> None:
        """Makes `digest` the answer to the key.

        Raises: ArtifactError: not a build key.
        """
        path = self._path(build_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, msgspec.json.encode({"digest": digest}))

    def remove(self, build_key: str) -> None:
        """Forgets the key."""
        self._path(build_key).unlink(missing_ok=True)

    def all(self) -> dict[str, str | None]:
        """Digest by build key; None where the record cannot be read."""
        return {path.stem: _digest_in(path) for path in sorted(self._folder.glob("*.json"))}

    def keys_of(self, digest: str) -> list[str]:
        """Build keys that the variant answers."""
        return [key for key, known in self.all().items() if known == digest]

    def _path(self, build_key: str) -> Path:
        if _BUILD_KEY.fullmatch(build_key) is None:
            raise ArtifactError(f"{build_key!r} is not a build key", hint="Use letters, digits, - and _.")
        return self._folder / f"{build_key}.json"


def _digest_in(path: Path) -> str | None:
    try:
        digest = msgspec.json.decode(path.read_bytes(), type=dict[str, str]).get("digest", "")
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return digest if _DIGEST.fullmatch(digest) else None
