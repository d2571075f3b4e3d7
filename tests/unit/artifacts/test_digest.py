from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.artifacts.digest import DigestCache, content_digest, file_sha256, folder_entries
from lightship.errors import ArtifactError
from lightship.ports.variants import FileEntry

ENTRIES = st.lists(
    st.builds(
        FileEntry,
        path=st.from_regex(r"[a-z]{1,4}(/[a-z]{1,4})?", fullmatch=True),
        num_bytes=st.integers(0, 2**40),
        sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda entry: entry.path,
)


@given(ENTRIES, st.randoms(use_true_random=False))
def test_content_digest_order_of_files_does_not_matter(entries: list[FileEntry], order: random.Random) -> None:
    shuffled = list(entries)
    order.shuffle(shuffled)
    assert content_digest(shuffled) == content_digest(entries)


@given(ENTRIES)
def test_content_digest_any_change_gives_another(entries: list[FileEntry]) -> None:
    first, *rest = entries
    larger = FileEntry(first.path, first.num_bytes + 1, first.sha256)
    renamed = FileEntry(f"{first.path}x/y/z", first.num_bytes, first.sha256)
    digests = {content_digest(e) for e in (entries, [larger, *rest], [renamed, *rest], rest)}
    assert len(digests) == 4


def test_content_digest_known_content_has_the_documented_form() -> None:
    entry = FileEntry("a/b", 3, "00")
    expected = hashlib.sha256(b'["a/b",3,"00"]\n').hexdigest()
    assert content_digest([entry]) == f"sha256:{expected}"


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../b", "a//b", "./a", "", "."])
def test_content_digest_path_outside_is_refused(path: str) -> None:
    with pytest.raises(ArtifactError, match="not a path inside"):
        content_digest([FileEntry(path, 0, "")])


def test_content_digest_path_listed_twice_is_refused() -> None:
    with pytest.raises(ArtifactError, match="twice"):
        content_digest([FileEntry("a", 0, "0"), FileEntry("a", 1, "1")])


def test_folder_entries_nested_files_are_listed_with_size_and_hash(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"abc")
    (tmp_path / "a").write_bytes(b"")
    # Published test vectors of SHA-256 for "abc" and the empty string.
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert folder_entries(tmp_path) == (FileEntry("a", 0, empty), FileEntry("sub/b", 3, abc))


@pytest.mark.parametrize("target", ["a", "missing", "."])
def test_folder_entries_symbolic_link_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ArtifactError, match="symbolic link"):
        folder_entries(tmp_path)


def test_folder_entries_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="neither a file nor a folder"):
        folder_entries(tmp_path)


def test_digest_cache_second_process_does_not_hash_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    first = DigestCache(tmp_path / "cache.json")
    digest = first.sha256(file)
    first.save()
    status = file.stat()
    file.write_bytes(b"two")  # same size; with the old times back only hashing could tell
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert DigestCache(tmp_path / "cache.json").sha256(file) == digest


def test_digest_cache_changed_file_is_hashed_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    cache = DigestCache(tmp_path / "cache.json")
    before = cache.sha256(file)
    file.write_bytes(b"longer")
    assert cache.sha256(file) == file_sha256(file) != before


def test_digest_cache_damaged_file_is_an_empty_cache(tmp_path: Path) -> None:
    (tmp_path / "cache.json").write_text("{")
    (tmp_path / "file").write_bytes(b"x")
    assert DigestCache(tmp_path / "cache.json").sha256(tmp_path / "file") == hashlib.sha256(b"x").hexdigest()
