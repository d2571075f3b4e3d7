from __future__ import annotations

import hashlib
import itertools
import re
import sqlite3
from pathlib import Path

import pytest

from lightship.errors import ArtifactError, UsageError
from lightship.gateway.tenants.key_store import KeyStore
from lightship.gateway.tenants.keys import KeyScopes, KeyState, new_key, prefix_of


class ManualClock:
    """A `Clock` that stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        raise NotImplementedError


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> KeyStore:
    return KeyStore(tmp_path / "home" / "keys.sqlite", clock)


def test_new_key_has_256_random_bits_behind_a_public_prefix() -> None:
    asked = []

    def random_bytes(num: int) -> bytes:
        asked.append(num)
        return bytes(range(num))

    key = new_key(random_bytes)
    assert re.fullmatch(r"ls-[a-z2-7]{8}-[A-Za-z0-9_-]{43}", key)
    assert 32 in asked
    assert prefix_of(key) == key.split("-")[1]
    assert prefix_of("sk-something") is None


def test_create_keeps_the_digest_only(store: KeyStore, tmp_path: Path) -> None:
    key, record = store.create("team", label="ci", scopes=KeyScopes(models=frozenset({"tales"})))
    assert record.digest == hashlib.sha256(key.encode()).digest()
    assert store.all() == [record]
    secret = key.split("-", 2)[2]
    for file in (tmp_path / "home").iterdir():
        assert secret.encode() not in file.read_bytes()
    assert secret not in repr(record)
    assert repr(record.digest) not in repr(record)


def test_create_file_is_for_its_owner_only(store: KeyStore, tmp_path: Path) -> None:
    store.create("team")
    assert (tmp_path / "home" / "keys.sqlite").stat().st_mode & 0o077 == 0


def test_create_prefix_that_exists_takes_another(tmp_path: Path, clock: ManualClock) -> None:
    counter = itertools.chain([0, 0, 0, 1], itertools.count(2))
    store = KeyStore(tmp_path / "keys.sqlite", clock, random_bytes=lambda num: next(counter).to_bytes(num, "big"))
    first, second = store.create("a")[1], store.create("b")[1]
    assert first.prefix != second.prefix
    assert len(store.all()) == 2


def test_rotate_keeps_prefix_and_the_old_digest_for_the_grace_time(store: KeyStore, clock: ManualClock) -> None:
    _, before = store.create("team")
    clock.now_s += 100
    key, after = store.rotate(before.prefix, grace_s=60)
    assert after.prefix == before.prefix
    assert prefix_of(key) == before.prefix
    assert after.digest == hashlib.sha256(key.encode()).digest() != before.digest
    assert (after.old_digest, after.old_until_unix_s) == (before.digest, clock.now_s + 60)
    assert after.rotated_unix_s == clock.now_s


def test_rotate_without_grace_forgets_the_old_digest(store: KeyStore) -> None:
    _, before = store.create("team")
    assert store.rotate(before.prefix, grace_s=0)[1].old_digest is None


def test_state_follows_disable_enable_expire(store: KeyStore, clock: ManualClock) -> None:
    prefix = store.create("team")[1].prefix
    assert store.disable(prefix).state(clock.now_s) is KeyState.DISABLED
    assert store.enable(prefix).state(clock.now_s) is KeyState.ACTIVE
    record = store.expire(prefix, clock.now_s + 10)
    assert record.state(clock.now_s + 9) is KeyState.ACTIVE
    assert record.state(clock.now_s + 10) is KeyState.EXPIRED
    assert store.expire(prefix, None).state(clock.now_s + 10**9) is KeyState.ACTIVE


def test_remove_forgets_the_key(store: KeyStore) -> None:
    prefix = store.create("team")[1].prefix
    store.remove(prefix)
    assert store.all() == []


@pytest.mark.parametrize("written", ["{prefix}", "ls-{prefix}", "{key}"])
def test_get_takes_prefix_or_whole_key(store: KeyStore, written: str) -> None:
    key, record = store.create("team")
    assert store.get(written.format(prefix=record.prefix, key=key)) == record


def test_get_unknown_does_not_repeat_what_may_be_a_secret(store: KeyStore) -> None:
    with pytest.raises(UsageError) as caught:
        store.get("sk_live_0123456789abcdef")
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize("method", ["get", "disable", "enable", "remove"])
def test_change_of_an_unknown_key_is_a_usage_error(store: KeyStore, method: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no key"):
        getattr(store, method)("abcdefgh")
    assert not (tmp_path / "home").exists()  # asking makes no file


def test_damaged_file_is_an_artifact_error(store: KeyStore, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "keys.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(ArtifactError, match=r"keys\.sqlite"):
        store.all()
    with pytest.raises(ArtifactError):
        store.create("team")


def test_file_of_a_newer_program_is_refused(store: KeyStore, tmp_path: Path) -> None:
    store.create("team")
    connection = sqlite3.connect(tmp_path / "home" / "keys.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ArtifactError, match="newer"):
        store.all()


@pytest.mark.parametrize(
    ("models", "model", "is_allowed"),
    [
        (None, "anything", True),
        (frozenset({"tales"}), "tales", True),
        (frozenset({"tales"}), "tales@int4", True),
        (frozenset({"tales@int4"}), "tales@int4", True),
        (frozenset({"tales@int4"}), "tales", False),
        (frozenset({"tales"}), "tales2", False),
        (frozenset({"tales"}), "other@tales", False),
    ],
)
def test_scopes_allow_a_model_and_its_variants(models: frozenset[str] | None, model: str, is_allowed: bool) -> None:
    assert KeyScopes(models=models).allows(model) is is_allowed
