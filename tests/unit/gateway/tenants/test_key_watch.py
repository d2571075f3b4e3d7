from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from lightship.gateway.tenants.authentication import Authenticator
from lightship.gateway.tenants.key_store import KeyStore
from lightship.gateway.tenants.key_watch import KeyWatch
from lightship.ports.clock import SystemClock


class Setup:
    """A store, and a watch that hands its keys to an authenticator."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = KeyStore(path, SystemClock())
        self.authenticator = Authenticator(
            are_keys_required=True, unix_s=SystemClock().unix_s, on_failure=lambda _: None
        )
        self.watch = KeyWatch(path, self.authenticator, SystemClock())

    @property
    def num_keys(self) -> int:
        return len(self.authenticator.table)


def with_setup(tmp_path: Path, test: Callable[[Setup], Awaitable[None]]) -> None:
    async def run() -> None:
        setup = Setup(tmp_path / "keys.sqlite")
        with closing(setup.watch):
            await test(setup)

    asyncio.run(run())


def test_refresh_follows_every_change(tmp_path: Path) -> None:
    async def test(setup: Setup) -> None:
        await setup.watch.refresh()
        assert setup.num_keys == 0  # there is no file yet
        prefix = setup.store.create("team")[1].prefix
        await setup.watch.refresh()
        assert setup.num_keys == 1
        setup.store.rotate(prefix, grace_s=60)
        await setup.watch.refresh()
        assert setup.num_keys == 2
        setup.store.remove(prefix)
        await setup.watch.refresh()
        assert setup.num_keys == 0

    with_setup(tmp_path, test)


def test_refresh_without_change_keeps_the_table(tmp_path: Path) -> None:
    async def test(setup: Setup) -> None:
        setup.store.create("team")
        await setup.watch.refresh()
        table = setup.authenticator.table
        await setup.watch.refresh()
        assert setup.authenticator.table is table

    with_setup(tmp_path, test)


def test_refresh_file_that_is_damaged_keeps_the_keys_of_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(setup: Setup) -> None:
        setup.store.create("team")
        await setup.watch.refresh()
        damaged = tmp_path / "damaged"
        damaged.write_bytes(b"not a database" * 1000)
        damaged.replace(setup.path)
        for _ in range(3):
            await setup.watch.refresh()
        assert setup.num_keys == 1
        assert caplog.text.count("cannot be read") == 1

    with_setup(tmp_path, test)


def test_refresh_file_put_in_its_place_is_read(tmp_path: Path) -> None:
    async def test(setup: Setup) -> None:
        setup.store.create("team")
        await setup.watch.refresh()
        other = KeyStore(tmp_path / "other" / "keys.sqlite", SystemClock())
        for _ in range(2):
            other.create("team")
        for end in ("-wal", "-shm"):
            (tmp_path / f"keys.sqlite{end}").unlink(missing_ok=True)
        (tmp_path / "other" / "keys.sqlite").replace(setup.path)
        await setup.watch.refresh()
        assert setup.num_keys == 2

    with_setup(tmp_path, test)


def remove(folder: Path) -> None:
    for file in folder.glob("keys.sqlite*"):
        file.unlink()


def test_refresh_file_that_is_removed_leaves_no_key(tmp_path: Path) -> None:
    async def test(setup: Setup) -> None:
        setup.store.create("team")
        await setup.watch.refresh()
        remove(tmp_path)
        await setup.watch.refresh()
        assert setup.num_keys == 0

    with_setup(tmp_path, test)
