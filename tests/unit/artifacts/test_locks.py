from __future__ import annotations

from pathlib import Path

import pytest

from lightship.artifacts.locks import LockTimeoutError, try_lock, wait_lock


class TickingClock:
    """Ten seconds pass with every look."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic_s(self) -> float:
        self._now_s += 10.0
        return self._now_s

    def unix_s(self) -> float:
        return 0.0

    async def sleep(self, duration_s: float) -> None:
        raise AssertionError(f"nothing here sleeps for {duration_s} s")


def test_try_lock_held_by_another_is_refused_until_released(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a.lock"
    with try_lock(path) as first, try_lock(path) as second:
        assert (first, second) == (True, False)
    with try_lock(path) as third:
        assert third


def test_try_lock_shared_holders_exclude_an_exclusive_one(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with try_lock(path, shared=True) as one, try_lock(path, shared=True) as two, try_lock(path) as exclusive:
        assert (one, two, exclusive) == (True, True, False)


def test_wait_lock_freed_while_waiting_is_taken(tmp_path: Path) -> None:
    path, told, naps = tmp_path / "a.lock", [], []
    holder = try_lock(path)
    holder.__enter__()

    def sleep(duration_s: float) -> None:
        naps.append(duration_s)
        if len(naps) == 2:
            holder.__exit__(None, None, None)

    with wait_lock(path, TickingClock(), max_wait_s=1000, on_wait=lambda: told.append("told"), sleep=sleep):
        assert (told, len(naps)) == (["told"], 2)


def test_wait_lock_never_free_gives_up_at_the_limit(tmp_path: Path) -> None:
    path, naps = tmp_path / "a.lock", list[float]()
    with (
        try_lock(path),
        pytest.raises(LockTimeoutError),
        wait_lock(path, TickingClock(), max_wait_s=45, on_wait=lambda: None, sleep=naps.append),
    ):
        pass
    assert len(naps) == 4  # looks at 20, 30, 40 and 50 s; started at 10 s, so the limit is 55 s


def test_try_lock_file_removed_by_its_holder_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with try_lock(path):
        path.unlink()
        with try_lock(path) as second:
            assert second
            assert path.exists()
