"""Who makes room: sums by hand."""

from __future__ import annotations

from lightship.scaling.displacement import Displacement, Resident, make_room

OLD = Resident("old", memory_bytes=400, last_used_s=10.0)
NEW = Resident("new", memory_bytes=400, last_used_s=20.0)


def test_make_room_enough_left_stops_nobody() -> None:
    assert make_room([OLD], needed_bytes=600, budget_bytes=1000) == Displacement(())


def test_make_room_one_too_many_stops_the_least_recently_used() -> None:
    assert make_room([NEW, OLD], needed_bytes=400, budget_bytes=1000) == Displacement(("old",))


def test_make_room_large_one_stops_as_many_as_it_takes() -> None:
    assert make_room([NEW, OLD], needed_bytes=900, budget_bytes=1000) == Displacement(("old", "new"))


def test_make_room_busy_and_kept_ones_stay_and_nobody_is_stopped_in_vain() -> None:
    busy = Resident("busy", memory_bytes=400, last_used_s=0.0, is_busy=True)
    kept = Resident("kept", memory_bytes=200, last_used_s=0.0, is_kept=True)
    found = make_room([busy, kept, OLD], needed_bytes=500, budget_bytes=1000)
    assert found == Displacement((), missing_bytes=100)


def test_make_room_more_than_the_whole_budget_says_how_much_is_missing() -> None:
    assert make_room([], needed_bytes=1500, budget_bytes=1000) == Displacement((), missing_bytes=500)
