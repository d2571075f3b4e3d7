"""What every `ResponseStore` promises, held against memory, SQLite and a real Redis alike."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from tests.redis_server import RedisServer

from lightship.errors import UsageError
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.cache.memory_store import MemoryResponseStore
from lightship.gateway.cache.opening import open_store
from lightship.gateway.cache.redis_store import KEY_PREFIX
from lightship.gateway.cache.sqlite_store import SqliteResponseStore, sqlite_response_store
from lightship.gateway.cache.store import ResponseStore
from lightship.gateway.state import StateConfig


class SetClock:
    """A `Clock` that stands where it is set."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        raise AssertionError("a store does not wait")


OpenStore = Callable[[int], AbstractAsyncContextManager[ResponseStore]]
CLOCK_KINDS = ["memory", "sqlite"]


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def open_empty_store(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> OpenStore:
    return _opener(request.param, request, tmp_path, clock)


@pytest.fixture(params=CLOCK_KINDS)
def open_bounded_store(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> OpenStore:
    """Those that bound their size and keep time themselves; a Redis server does both by its own lights."""
    return _opener(request.param, request, tmp_path, clock)


def _opener(kind: str, request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> OpenStore:
    if kind == "redis":
        state = StateConfig(redis_url=request.getfixturevalue("redis_server").url, redis_timeout_s=5.0)
    else:
        state = StateConfig(folder=str(tmp_path / "state") if kind == "sqlite" else "")

    def open_it(max_bytes: int) -> AbstractAsyncContextManager[ResponseStore]:
        return open_store(CacheConfig(max_bytes=max_bytes), state, clock=clock)

    return open_it


def check(open_it: OpenStore, test: Callable[[ResponseStore], Awaitable[None]], *, max_bytes: int = 2**20) -> None:
    async def run() -> None:
        async with open_it(max_bytes) as store:
            await test(store)

    asyncio.run(run())


def test_store_gives_back_what_was_put_last(open_empty_store: OpenStore) -> None:
    async def test(store: ResponseStore) -> None:
        assert await store.get("a") is None
        assert await store.put("a", b"\x00\xff\r\n", ttl_s=60)
        assert await store.put("b", b"", ttl_s=60)
        assert await store.put("a", b"second", ttl_s=60)
        assert await store.get("a") == b"second"
        assert await store.get("b") == b""
        assert await store.get("c") is None

    check(open_empty_store, test)


def test_store_concurrent_calls_each_get_their_own(open_empty_store: OpenStore) -> None:
    async def test(store: ResponseStore) -> None:
        keys = [f"k{number}" for number in range(50)]
        assert all(await asyncio.gather(*(store.put(key, key.encode(), ttl_s=60) for key in keys)))
        assert await asyncio.gather(*(store.get(key) for key in keys)) == [key.encode() for key in keys]

    check(open_empty_store, test)


def test_store_is_shared_with_another_one_of_the_same_state(
    request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock
) -> None:
    opener = _opener("sqlite", request, tmp_path, clock)

    async def run() -> None:
        async with opener(2**20) as one, opener(2**20) as other:
            assert await one.put("a", b"1", ttl_s=60)
            assert await other.get("a") == b"1"
            await asyncio.gather(
                *(store.put(f"{store}{n}", b"x", ttl_s=60) for store in (one, other) for n in range(20))
            )
            assert await other.put("a", b"2", ttl_s=60)
            assert await one.get("a") == b"2"
        async with opener(2**20) as later:
            assert await later.get("a") == b"2"
            assert later.counts.num_entries == 41

    asyncio.run(run())


def test_store_entry_is_gone_when_its_time_is_over(open_bounded_store: OpenStore, clock: SetClock) -> None:
    async def test(store: ResponseStore) -> None:
        await store.put("short", b"1", ttl_s=10)
        await store.put("long", b"1", ttl_s=20)
        clock.now_s += 9.5
        assert await store.get("short") == b"1"
        clock.now_s += 0.5
        assert await store.get("short") is None
        assert await store.get("long") == b"1"
        await store.put("short", b"2", ttl_s=10)
        assert await store.get("short") == b"2"
        assert store.counts.num_entries == 2
        assert store.counts.num_evicted == 0

    check(open_bounded_store, test)


def test_store_full_lets_the_least_recently_used_go(open_bounded_store: OpenStore, clock: SetClock) -> None:
    async def test(store: ResponseStore) -> None:
        for key in ("a", "b", "c"):
            assert await store.put(key, b"x" * 1000, ttl_s=1e6)
            clock.now_s += 100
        assert await store.get("a")
        await store.put("other", b"", ttl_s=1e6)  # any write that was under way is over
        assert await store.put("d", b"x" * 1000, ttl_s=1e6)
        assert [key for key in "abcd" if await store.get(key)] == ["a", "c", "d"]
        assert store.counts.num_evicted == 1
        assert store.counts.num_bytes is not None
        assert 3000 < store.counts.num_bytes <= 5000

    check(open_bounded_store, test, max_bytes=5000)


def test_store_bound_holds_whatever_is_put(open_bounded_store: OpenStore, clock: SetClock) -> None:
    async def test(store: ResponseStore) -> None:
        for number in range(200):
            clock.now_s += 1
            await store.put(f"k{number}", b"x" * (number * 37 % 900), ttl_s=1e6)
            assert store.counts.num_bytes is not None
            assert store.counts.num_bytes <= 4000
        assert await store.get("k199") is not None
        assert not await store.put("huge", b"x" * 4000, ttl_s=60)
        assert await store.get("huge") is None
        store.resize(max_bytes=1000)
        await store.put("last", b"x" * 100, ttl_s=60)
        assert store.counts.num_bytes is not None
        assert store.counts.num_bytes <= 1000

    check(open_bounded_store, test, max_bytes=4000)


def test_sqlite_store_file_is_for_its_owner_only(tmp_path: Path, clock: SetClock) -> None:
    def modes() -> set[int]:
        return {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    async def run() -> None:
        async with sqlite_response_store(tmp_path / "r.sqlite", max_bytes=10_000, clock=clock) as store:
            await store.put("a", b"1", ttl_s=60)
            assert modes() == {0o600}

    asyncio.run(run())


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 100, b"SQLite format 3\x00" + b"\xff" * 4096]
)
def test_sqlite_store_damaged_file_is_emptied(tmp_path: Path, clock: SetClock, content: bytes) -> None:
    path = tmp_path / "r.sqlite"
    path.write_bytes(content)

    async def run() -> None:
        async with sqlite_response_store(path, max_bytes=10_000, clock=clock) as store:
            assert await store.get("a") is None
            assert await store.put("a", b"1", ttl_s=60)
            assert await store.get("a") == b"1"

    asyncio.run(run())


def test_sqlite_store_file_of_another_program_is_taken_over(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE answers (odd INTEGER)")
        other.execute("CREATE VIEW totals AS SELECT 1")
    other.close()

    async def run() -> None:
        async with sqlite_response_store(path, max_bytes=10_000, clock=clock) as store:
            assert await store.put("a", b"1", ttl_s=60)
            assert await store.get("a") == b"1"

    asyncio.run(run())


def test_sqlite_store_damaged_while_open_misses_and_recovers(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "r.sqlite"

    async def run() -> None:
        async with sqlite_response_store(path, max_bytes=10_000, clock=clock) as store:
            await store.put("a", b"1" * 5000, ttl_s=60)
            await _damage(store, path)
            assert await store.get("a") is None
            await store.put("b", b"2", ttl_s=60)
            await store.put("b", b"2", ttl_s=60)
            assert await store.get("b") == b"2"
            assert store.counts.num_failed

    asyncio.run(run())


async def _damage(store: SqliteResponseStore, path: Path) -> None:
    await store.put("x", b"1" * 4000, ttl_s=60)
    for suffix in ("-wal", ""):
        file = path.with_name(path.name + suffix)
        file.write_bytes(b"\xff" * file.stat().st_size)


def test_sqlite_store_row_of_odd_types_is_a_miss(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "r.sqlite"

    async def run() -> None:
        async with sqlite_response_store(path, max_bytes=10_000, clock=clock) as store:
            with sqlite3.connect(path) as other:
                other.execute("INSERT INTO answers VALUES ('a', 'text', 2e6, 0.0, 10), ('b', x'00', 'soon', 0.0, 10)")
            other.close()
            assert await store.get("a") is None
            assert await store.get("b") is None
            assert await store.put("a", b"1", ttl_s=60)
            assert await store.get("a") == b"1"

    asyncio.run(run())


def test_sqlite_store_locked_by_another_process_does_not_hold_readers_up(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "r.sqlite"

    async def run() -> None:
        async with sqlite_response_store(path, max_bytes=10_000, clock=clock) as store:
            await store.put("a", b"1", ttl_s=60)
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            assert await store.get("a") == b"1"
            assert not await store.put("a", b"2", ttl_s=60)
            other.execute("ROLLBACK")
            other.close()
            assert await store.put("a", b"2", ttl_s=60)

    asyncio.run(run())


def test_sqlite_store_folder_that_cannot_be_written_says_so(tmp_path: Path, clock: SetClock) -> None:
    (tmp_path / "file").write_text("in the way")

    async def run() -> None:
        async with sqlite_response_store(tmp_path / "file" / "r.sqlite", max_bytes=10_000, clock=clock):
            pass

    with pytest.raises(UsageError, match="cannot be opened"):
        asyncio.run(run())


def test_memory_store_counts_what_it_holds(clock: SetClock) -> None:
    async def run() -> None:
        store = MemoryResponseStore(max_bytes=10_000, clock=clock)
        await store.put("a", b"x" * 100, ttl_s=10)
        assert store.counts.num_bytes is not None
        assert store.counts.num_bytes >= 100
        clock.now_s += 10
        assert await store.get("a") is None
        assert (store.counts.num_bytes, store.counts.num_entries) == (0, 0)

    asyncio.run(run())


def redis_store(
    server: RedisServer, clock: SetClock, *, timeout_s: float = 0.2
) -> AbstractAsyncContextManager[ResponseStore]:
    return open_store(CacheConfig(), StateConfig(redis_url=server.url, redis_timeout_s=timeout_s), clock=clock)


def test_redis_store_entry_is_gone_when_its_time_is_over(redis_server: RedisServer, clock: SetClock) -> None:
    async def run() -> None:
        async with redis_store(redis_server, clock, timeout_s=5) as store:
            await store.put("a", b"1", ttl_s=60)
            await store.put("short", b"1", ttl_s=0.001)
            while await store.get("short") is not None:
                pass  # a Redis keeps time itself
            assert await store.get("a") == b"1"

    asyncio.run(run())


def test_redis_store_server_killed_misses_and_is_found_again(
    private_redis_server: RedisServer, clock: SetClock
) -> None:
    async def run() -> None:
        async with redis_store(private_redis_server, clock) as store:
            assert await store.put("a", b"1", ttl_s=60)
            private_redis_server.kill()
            assert await store.get("a") is None
            assert not await store.put("a", b"1", ttl_s=60)
            num_failed = store.counts.num_failed
            assert num_failed
            private_redis_server.start()
            assert not await store.put("a", b"1", ttl_s=60)  # it is not asked again so soon
            assert store.counts.num_failed == num_failed
            clock.now_s += 1
            assert await store.put("a", b"1", ttl_s=60)
            assert await store.get("a") == b"1"

    asyncio.run(run())


def test_redis_store_frozen_server_costs_one_time_out_per_second(
    private_redis_server: RedisServer, clock: SetClock
) -> None:
    async def run() -> None:
        async with redis_store(private_redis_server, clock, timeout_s=0.05) as store:
            assert await store.put("a", b"1", ttl_s=60)
            private_redis_server.stop_answering()
            for second in range(3):
                for _ in range(100):
                    assert await store.get("a") is None
                assert store.counts.num_failed == second + 1
                clock.now_s += 1
            private_redis_server.answer_again()
            assert await store.get("a") == b"1"

    asyncio.run(run())


def test_redis_store_foreign_value_of_another_type_is_a_miss(redis_server: RedisServer, clock: SetClock) -> None:
    async def run() -> None:
        async with redis_store(redis_server, clock, timeout_s=5) as store, Redis.from_url(redis_server.url) as client:
            await client.rpush(KEY_PREFIX + "a", "x")
            assert await store.get("a") is None
            assert await store.put("a", b"1", ttl_s=60)
            assert await store.get("a") == b"1"

    asyncio.run(run())
