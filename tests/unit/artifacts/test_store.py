from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lightship.artifacts.locks import try_lock
from lightship.artifacts.store import ArtifactStore, VariantDescription
from lightship.errors import ArtifactError, DigestMismatchError, StorageFullError, ToolchainError, UnsafeCheckpointError
from lightship.ports.clock import Clock
from lightship.ports.variants import Recipe, RecipeStep, Variant, WeightFormat

KEY = "k" * 64
PARENT = "sha256:" + "0" * 64


def description(name: str = "int8", build_key: str = KEY) -> VariantDescription:
    return VariantDescription(
        name=name,
        model_name="fairytales",
        weight_format=WeightFormat.OPENVINO_IR,
        parent_digest=PARENT,
        recipe=Recipe(name, (RecipeStep("quantize", {"scheme": "int8", "ratio": 1.0, "awq": False}),)),
        build_key=build_key,
        tool_versions={"nncf": "3.4.0"},
        weight_bytes=4,
        num_parameters=4,
        context_length=64,
        source="checkpoint",
    )


def write_model(folder: Path, content: bytes = b"\x01\x02\x03\x04") -> None:
    (folder / "openvino_model.bin").write_bytes(content)
    (folder / "openvino_model.xml").write_text("<net/>")
    (folder / "extra").mkdir()
    (folder / "extra" / "config.json").write_text("{}")


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store", clock)


def build(store: ArtifactStore, *, key: str = KEY, name: str = "int8", content: bytes = b"\x01\x02\x03\x04") -> Variant:
    return store.build(key, lambda _: description(name, key), lambda folder: write_model(folder, content))


def leftovers(store: ArtifactStore) -> list[Path]:
    """Everything that looks like a variant, a record or an unfinished build."""
    return [path for part in ("variants", "builds", "partial") for path in (store.root / part).glob("*")]


def test_build_result_is_found_again_with_its_manifest(store: ArtifactStore) -> None:
    variant = build(store)
    manifest = variant.manifest
    assert store.find(KEY) == variant == store.ls()[0]
    assert variant.folder == store.root / "variants" / manifest.digest.removeprefix("sha256:")
    assert [entry.path for entry in manifest.files] == ["extra/config.json", "openvino_model.bin", "openvino_model.xml"]
    assert (manifest.num_bytes, manifest.created_unix_s) == (4 + 6 + 2, 1_700_000_000.5)
    assert json.loads((variant.folder / "manifest.json").read_text())["recipe"]["steps"][0]["options"] == {
        "scheme": "int8",
        "ratio": 1.0,
        "awq": False,
    }


def test_build_second_call_does_not_build(store: ArtifactStore) -> None:
    variant = build(store)

    def never(_: Path) -> None:
        raise AssertionError("built twice")

    assert store.build(KEY, lambda _: description(), never) == variant


def test_build_manifest_is_written_after_the_last_file(store: ArtifactStore) -> None:
    seen = []

    def describe(folder: Path) -> VariantDescription:
        seen.append((folder / "manifest.json").exists())
        return description()

    variant = store.build(KEY, describe, write_model)
    assert seen == [False]
    assert (variant.folder / "manifest.json").exists()


def test_build_two_keys_with_equal_content_share_one_variant(store: ArtifactStore) -> None:
    first, second = build(store), build(store, key="other", name="renamed")
    assert (second, len(store.ls())) == (first, 1)
    assert store.find("other") == store.find(KEY) == first


@pytest.mark.parametrize("error", [KeyboardInterrupt, ToolchainError, OSError])
def test_build_interrupted_leaves_nothing(store: ArtifactStore, error: type[BaseException]) -> None:
    def fail(folder: Path) -> None:
        write_model(folder)
        raise error("stopped")

    with pytest.raises(error, match="stopped"):
        store.build(KEY, lambda _: description(), fail)
    assert leftovers(store) == []
    assert build(store).manifest.name == "int8"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling.py", "weights.pt"])
def test_build_pickle_or_code_is_refused(store: ArtifactStore, name: str) -> None:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(b"x")

    with pytest.raises(UnsafeCheckpointError):
        store.build(KEY, lambda _: description(), write)
    assert leftovers(store) == []


def test_build_without_files_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="wrote no files"):
        store.build(KEY, lambda _: description(), lambda _: None)


@pytest.mark.parametrize("key", ["", "../up", "a/b", "a.b"])
def test_build_key_that_is_a_path_is_refused(store: ArtifactStore, key: str) -> None:
    with pytest.raises(ArtifactError, match="not a build key"):
        store.find(key)


def test_build_full_disk_error_of_the_builder_says_what_was_written(store: ArtifactStore) -> None:
    def fill(folder: Path) -> None:
        (folder / "openvino_model.bin").write_bytes(bytes(2048))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageFullError, match=r"after 2\.0 KiB were written .* free") as caught:
        store.build(KEY, lambda _: description(), fill)
    assert caught.value.where == str(store.root)
    assert leftovers(store) == []


def test_build_full_disk_told_by_a_job_is_recognised(store: ArtifactStore) -> None:
    def fail(_: Path) -> None:
        raise ToolchainError("OSError: [Errno 28] No space left on device", where="converting")

    with pytest.raises(StorageFullError):
        store.build(KEY, lambda _: description(), fail)


def test_build_larger_than_the_disk_is_refused_before_any_work(store: ArtifactStore) -> None:
    with pytest.raises(StorageFullError, match="are needed"):
        store.build(KEY, lambda _: description(), write_model, estimated_bytes=2**62)
    assert leftovers(store) == []


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A real file system of one megabyte; skips where it cannot be mounted."""
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"NOT TESTED on a really full disk: a small tmpfs cannot be mounted here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_build_really_full_disk_leaves_nothing_and_the_next_build_works(tmp_path: Path, clock: Clock) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = ArtifactStore(disk / "store", clock)
        with pytest.raises(StorageFullError, match=r"after 1\.0 MiB|after \d+ KiB"):
            build(store, content=bytes(2**21))
        assert leftovers(store) == []
        assert build(store).manifest.num_bytes == 12


def test_build_disk_full_of_other_things_is_a_storage_error(tmp_path: Path, clock: Clock) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(bytes(2**21))
        with pytest.raises(StorageFullError):
            build(ArtifactStore(disk / "store", clock))


# ---- several processes

CHILD = """
import os, sys, time
from pathlib import Path
from lightship.artifacts.store import ArtifactStore, VariantDescription
from lightship.ports.clock import SystemClock
from lightship.ports.variants import Recipe, WeightFormat

root, mode = Path(sys.argv[1]), sys.argv[2]

def describe(folder):
    return VariantDescription(name="int8", model_name="m", weight_format=WeightFormat.OPENVINO_IR,
        parent_digest="p", recipe=Recipe("int8", ()), build_key="key", tool_versions={}, weight_bytes=1,
        num_parameters=1, context_length=1, source="s")

def builder(folder):
    (folder / "openvino_model.bin").write_bytes(b"half")
    with (root / "built").open("a") as log:
        log.write(f"{os.getpid()}\\n")
    if mode == "die":
        os._exit(9)
    print("building", flush=True)
    sys.stdin.readline()

variant = ArtifactStore(root / "store", SystemClock()).build(
    "key", describe, builder, on_wait=lambda text: print("waiting", flush=True))
print(variant.manifest.digest, flush=True)
"""


def start(root: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_build_two_processes_build_once(tmp_path: Path) -> None:
    with start(tmp_path, "build") as first, start(tmp_path, "build") as second:
        assert first.stdout is not None
        assert second.stdout is not None
        words = {first: first.stdout.readline().strip(), second: second.stdout.readline().strip()}
        assert sorted(words.values()) == ["building", "waiting"]
        (builder,) = [process for process, word in words.items() if word == "building"]
        outputs = {builder: builder.communicate("go\n", timeout=20)[0]}
        for process in {first, second} - {builder}:
            outputs[process] = process.communicate(timeout=20)[0]
        digests = {output.strip() for output in outputs.values()}
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(digests) == 1
    assert len((tmp_path / "built").read_text().splitlines()) == 1


def test_build_killed_builder_leaves_nothing_finished_and_the_next_build_works(tmp_path: Path, clock: Clock) -> None:
    with start(tmp_path, "die") as dying:
        dying.communicate(timeout=20)
    assert dying.returncode == 9
    store = ArtifactStore(tmp_path / "store", clock)
    assert (store.find("key"), store.ls(), store.damaged()) == (None, [], [])
    variant = build(store, key="key")
    store.verify(variant, full=True)
    assert len(list((store.root / "partial").iterdir())) == 1
    assert store.gc() == len(b"half")
    assert list((store.root / "partial").iterdir()) == []
    assert store.find("key") == variant


def test_gc_build_under_way_is_not_touched(store: ArtifactStore) -> None:
    def slow(folder: Path) -> None:
        write_model(folder)
        assert store.gc() == 0

    store.verify(store.build(KEY, lambda _: description(), slow), full=True)


# ---- verification

Damage = Callable[[Path], object]


def flip_byte(folder: Path) -> None:
    path = folder / "openvino_model.bin"
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "where", "message"),
    [
        (flip_byte, "openvino_model.bin", "content is not what was built"),
        (lambda f: (f / "openvino_model.bin").write_bytes(b"\x01"), "openvino_model.bin", "1 bytes instead of 4"),
        (lambda f: (f / "extra" / "config.json").unlink(), "extra/config.json", "missing"),
        (lambda f: (f / "added.json").write_text("{}"), "added.json", "not part of the variant"),
    ],
    ids=["flipped", "truncated", "missing", "extra"],
)
def test_verify_damage_is_named_with_the_way_out(
    store: ArtifactStore, damage: Damage, where: str, message: str
) -> None:
    variant = build(store)
    store.verify(variant)
    damage(variant.folder)
    with pytest.raises(DigestMismatchError, match=message) as caught:
        store.verify(variant)
    assert caught.value.where == str(variant.folder / where)
    assert f"lightship artifacts rm {variant.manifest.short_digest}" in str(caught.value.hint)


def test_verify_full_finds_a_change_that_kept_size_and_time(store: ArtifactStore) -> None:
    variant = build(store)
    store.verify(variant)
    path = variant.folder / "openvino_model.bin"
    status = path.stat()
    flip_byte(variant.folder)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    store.verify(variant)  # the documented limit of the quick check
    with pytest.raises(DigestMismatchError):
        store.verify(variant, full=True)


def test_verify_symbolic_link_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    variant = build(store)
    path = variant.folder / "openvino_model.bin"
    path.rename(tmp_path / "outside.bin")
    path.symlink_to(tmp_path / "outside.bin")
    with pytest.raises(ArtifactError, match="symbolic link"):
        store.verify(variant)


def test_build_damaged_variant_with_equal_content_is_replaced(store: ArtifactStore) -> None:
    variant = build(store)
    flip_byte(variant.folder)
    again = build(store, key="other")
    store.verify(again, full=True)
    assert again.folder == variant.folder
    assert store.find(KEY) == store.find("other") == again


# ---- manifests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"format_version": 2}, "format version 2"),
        (lambda m: m | {"surprise": 1}, "unknown field 'surprise'"),
        (lambda m: {k: v for k, v in m.items() if k != "recipe"}, "recipe"),
        (lambda m: m | {"weight_format": "pickle"}, "weight_format"),
        (lambda m: m | {"files": [m["files"][0] | {"path": "../../up"}]}, "not a path inside"),
        (lambda m: m | {"files": m["files"][:1]}, "not that of the files it lists"),
        (lambda m: [m], "not a JSON object"),
    ],
    ids=["version", "unknown-field", "missing-field", "wrong-type", "path-outside", "other-files", "list"],
)
def test_manifest_not_as_written_makes_the_variant_damaged(
    store: ArtifactStore, change: Callable[[dict[str, object]], object], message: str
) -> None:
    variant = build(store)
    path = variant.folder / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    (damaged,) = store.damaged()
    assert (store.ls(), damaged.folder) == ([], variant.folder)
    assert message in str(damaged.error)
    with pytest.raises(ArtifactError, match=message):
        store.find(KEY)


def test_rm_damaged_variant_can_be_removed_and_built_again(store: ArtifactStore) -> None:
    variant = build(store)
    (variant.folder / "manifest.json").write_text("{")
    store.rm(variant.manifest.digest)
    assert store.find(KEY) is None
    assert build(store) == variant


# ---- names, removal, garbage


def test_open_digest_prefix_or_name_gives_the_variant(store: ArtifactStore) -> None:
    variant = build(store)
    digest = variant.manifest.digest
    for reference in (digest, digest[7:], digest[7:15], "int8", "fairytales/int8"):
        assert store.open(reference) == variant


@pytest.mark.parametrize("reference", ["", "abc", "deadbeef", "int4", "../../etc", "sha256:"])
def test_open_unknown_reference_is_refused(store: ArtifactStore, reference: str) -> None:
    build(store)
    with pytest.raises(ArtifactError, match="there is no variant"):
        store.open(reference)


def test_open_name_of_two_variants_is_refused_with_their_digests(store: ArtifactStore) -> None:
    variants = [build(store), build(store, key="other", content=b"5678")]
    with pytest.raises(ArtifactError, match="several") as caught:
        store.open("int8")
    assert all(variant.manifest.short_digest in str(caught.value) for variant in variants)


def test_rm_variant_in_use_is_refused_and_afterwards_allowed(store: ArtifactStore) -> None:
    variant = build(store)
    with store.in_use(variant), store.in_use(variant), pytest.raises(ArtifactError, match="in use"):
        store.rm(variant.manifest.digest)
    assert store.rm(variant.manifest.short_digest) > variant.manifest.num_bytes
    assert (leftovers(store), store.find(KEY)) == ([], None)


def test_in_use_removed_variant_is_refused(store: ArtifactStore) -> None:
    variant = build(store)
    store.rm(variant.manifest.digest)
    with pytest.raises(ArtifactError, match="was removed"), store.in_use(variant):
        pass


@pytest.mark.parametrize("digest", ["../builds", "..", "deadbeef", ""])
def test_rm_anything_but_a_variant_is_refused(store: ArtifactStore, digest: str) -> None:
    build(store)
    with pytest.raises(ArtifactError, match="there is no variant"):
        store.rm(digest)
    assert len(store.ls()) == 1


def test_gc_removes_what_no_build_answers_except_the_kept(store: ArtifactStore) -> None:
    built, orphan, kept = (build(store, key=key, content=key.encode()) for key in ("built", "orphan", "kept"))
    for key in ("orphan", "kept"):
        (store.root / "builds" / f"{key}.json").unlink()
    assert store.gc([kept.manifest.digest]) > orphan.manifest.num_bytes
    assert {v.manifest.digest for v in store.ls()} == {built.manifest.digest, kept.manifest.digest}
    assert list((store.root / "locks").iterdir()) == []


def test_gc_orphan_in_use_stays(store: ArtifactStore) -> None:
    orphan = build(store)
    (store.root / "builds" / f"{KEY}.json").unlink()
    with store.in_use(orphan):
        assert store.gc() == 0
    assert store.ls() == [orphan]


def test_gc_record_without_variant_is_removed(store: ArtifactStore) -> None:
    (store.root / "builds").mkdir(parents=True)
    (store.root / "builds" / "lost.json").write_text(json.dumps({"digest": PARENT}))
    (store.root / "builds" / "torn.json").write_text("{")
    store.gc()
    assert list((store.root / "builds").iterdir()) == []


def test_gc_store_that_does_not_exist_frees_nothing(store: ArtifactStore) -> None:
    assert (store.gc(), store.ls(), store.damaged()) == (0, [], [])


def test_build_lock_held_too_long_is_an_error(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, JumpingClock())
    told: list[str] = []
    with try_lock(tmp_path / "locks" / f"build-{KEY}.lock"), pytest.raises(ArtifactError, match="more than 60 s"):
        store.build(KEY, lambda _: description(), write_model, max_wait_s=60, on_wait=told.append)
    assert told == [f"waiting for another process that builds {KEY[:12]}"]


class JumpingClock:
    """An hour passes with every look."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic_s(self) -> float:
        self._now_s += 3600.0
        return self._now_s

    def unix_s(self) -> float:
        return 0.0

    async def sleep(self, duration_s: float) -> None:
        raise AssertionError(f"nothing here sleeps for {duration_s} s")
