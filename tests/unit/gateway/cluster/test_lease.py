"""Moves on a Lease; times by hand."""

from __future__ import annotations

from typing import Any

import pytest

from lightship.gateway.cluster.lease import Move, held, micro_time, next_move, released, sighted


def lease(holder: str = "", *, renewed: str = "", transitions: int = 3) -> dict[str, Any]:
    spec = {"leaseDurationSeconds": 15, "leaseTransitions": transitions}
    if holder:
        spec |= {"holderIdentity": holder, "renewTime": renewed}  # type: ignore[dict-item] # as JSON has it
    return {"metadata": {"name": "l", "resourceVersion": "7"}, "spec": spec}


@pytest.mark.parametrize(
    ("holder", "now_s", "move"),
    [
        ("", 100.0, Move.TAKE),
        ("me", 100.0, Move.RENEW),
        ("me", 500.0, Move.RENEW),
        ("other", 100.0, Move.WAIT),
        ("other", 114.9, Move.WAIT),
        ("other", 115.0, Move.TAKE),
    ],
)
def test_next_move_depends_on_the_holder_and_on_how_long_it_was_silent(holder: str, now_s: float, move: Move) -> None:
    # The time written in it is years off: only when it was first seen counts.
    seen = sighted(None, lease(holder, renewed="1999-01-01T00:00:00.000000Z"), now_s=100.0)
    assert next_move(seen, identity="me", now_s=now_s) is move


def test_sighted_same_content_keeps_the_time_it_was_first_seen() -> None:
    first = sighted(None, lease("other", renewed="a"), now_s=100.0)
    again = sighted(first, {**lease("other", renewed="a"), "metadata": {"resourceVersion": "8"}}, now_s=110.0)
    assert again.first_seen_s == 100.0
    assert again.obj["metadata"]["resourceVersion"] == "8"
    assert sighted(again, lease("other", renewed="b"), now_s=111.0).first_seen_s == 111.0


def test_held_take_counts_a_transition_and_renewal_does_not() -> None:
    seen = sighted(None, lease(), now_s=0.0)
    taken = held(seen, identity="me", duration_s=15.0, unix_s=1.5, move=Move.TAKE)
    assert taken["metadata"]["resourceVersion"] == "7"
    assert taken["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 4,
        "acquireTime": "1970-01-01T00:00:01.500000Z",
        "renewTime": "1970-01-01T00:00:01.500000Z",
    }
    renewed = held(sighted(None, taken, now_s=0.0), identity="me", duration_s=15.0, unix_s=2.0, move=Move.RENEW)
    assert renewed["spec"]["leaseTransitions"] == 4
    assert renewed["spec"]["acquireTime"] == "1970-01-01T00:00:01.500000Z"
    assert released(renewed, unix_s=3.0)["spec"]["holderIdentity"] == ""


def test_micro_time_has_six_digits_also_for_whole_seconds() -> None:
    assert micro_time(1_764_237_600.0) == "2025-11-27T10:00:00.000000Z"
