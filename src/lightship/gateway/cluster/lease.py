"""Who may lead, as far as a Lease tells: pure functions on what was seen of it.

    free ---------------------------------------------> TAKE
    held by us ---------------------------------------> RENEW
    held by another, changed within its duration -----> WAIT
    held by another, unchanged for its duration ------> TAKE

How long it has been unchanged is measured by our own clock since we saw the change, never by the times written in it:
clocks of machines differ. Source: `k8s.io/client-go/tools/leaderelection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from lightship.kubernetes.resources import JsonObject


class Move(StrEnum):
    """What one who wants to lead does next."""

    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True)
class Sighting:
    """A Lease as it was seen, and when its content was first seen, on our clock.

    `holder` is "" where nobody leads.
    """

    obj: JsonObject
    holder: str
    duration_s: float
    first_seen_s: float


def sighted(before: Sighting | None, obj: JsonObject, *, now_s: float) -> Sighting:
    """What is known of a Lease after one more look at it."""
    if before is not None and before.obj.get("spec") == obj.get("spec"):
        return Sighting(obj, before.holder, before.duration_s, before.first_seen_s)
    spec = obj.get("spec") or {}
    return Sighting(obj, spec.get("holderIdentity") or "", float(spec.get("leaseDurationSeconds") or 0), now_s)


def next_move(seen: Sighting, *, identity: str, now_s: float) -> Move:
    """What to do about a Lease."""
    if seen.holder == identity:
        return Move.RENEW
    if not seen.holder or now_s >= seen.first_seen_s + seen.duration_s:
        return Move.TAKE
    return Move.WAIT


def held(seen: Sighting, *, identity: str, duration_s: float, unix_s: float, move: Move) -> JsonObject:
    """The Lease as it is to be written: ours from now on. It carries the version seen, so that one of several wins."""
    now = micro_time(unix_s)
    spec = dict(seen.obj.get("spec") or {})
    spec |= {"holderIdentity": identity, "leaseDurationSeconds": int(duration_s), "renewTime": now}
    if move is Move.TAKE:
        spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
    return {**seen.obj, "spec": spec}


def released(obj: JsonObject, *, unix_s: float) -> JsonObject:
    """The Lease as a leader leaves it: free at once."""
    spec = {**obj["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time(unix_s)}
    return {**obj, "spec": spec}


def micro_time(unix_s: float) -> str:
    """A time as Leases carry it; the server refuses one without microseconds.

    >>> micro_time(0.25)
    '1970-01-01T00:00:00.250000Z'
    """
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
