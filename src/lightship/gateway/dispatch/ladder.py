"""Which rung a request gets, and how far down the ladder to go. Pure decisions, each with its reason.

The *level* is a property of the ladder: how far down new requests are sent. It moves by one at a time, down fast and up
slowly, and with different signals, because a rung that is fast enough makes the overload disappear that it was taken
for:

    down   requests have waited too long, or been shed, for a moment
    up     arrivals are clearly fewer than when the step above was left; or, as a trial, after a while

A request need not follow the level. It may refuse lower rungs, accept them only down to some quality, belong to a
session that has its prefix cache elsewhere, or come when the device has room for the better rung after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import msgspec

from lightship.gateway.dispatch.config import LadderPolicy, RungFacts
from lightship.ports.engine import Degrade


class RungReason(StrEnum):
    """Why a request got its rung; the words of `x-degraded` and of a metric's label."""

    ASKED = "asked"
    EXPLICIT = "explicit"
    LEVEL = "load"
    PREFERRED = "preferred"
    SESSION = "session"
    UNAVAILABLE = "unavailable"
    BUDGET = "budget"
    ROOM = "room"
    SPILL = "spill"
    QUALITY_FLOOR = "quality-floor"


class RungView(msgspec.Struct, frozen=True):
    """What a choice needs to know of one rung now."""

    facts: RungFacts
    is_up: bool = True
    has_room_to_mix: bool = False
    may_degrade: bool = True
    """Whether the quality budget allows one more answer on this rung."""


class Wish(msgspec.Struct, frozen=True):
    """What a request asks for. `session_rung` is where its session was answered last, or None."""

    asked_rung: int = 0
    is_pinned: bool = False
    degrade: Degrade = Degrade.ALLOWED
    min_quality: float = 0.0
    session_rung: int | None = None
    is_session_costly: bool = False
    """Whether leaving the session's rung would cost more than it saves: its prefix cache would have to be computed."""


class RungChoice(msgspec.Struct, frozen=True):
    """The rung, or None when the request can be answered nowhere on this ladder; and why."""

    rung: int | None
    reason: RungReason


def choose_rung(wish: Wish, rungs: Sequence[RungView], *, level: int) -> RungChoice:
    """The rung that one request should have now.

    Args:
        wish: What it asks for and accepts.
        rungs: From the top down, spill rungs left out.
        level: How far down new requests are sent.

    >>> ladder = [RungView(RungFacts(variant_name="fp16")), RungView(RungFacts(variant_name="int4", quality_loss=0.02))]
    >>> choose_rung(Wish(), ladder, level=1)
    RungChoice(rung=1, reason=<RungReason.LEVEL: 'load'>)
    >>> choose_rung(Wish(min_quality=0.99), ladder, level=1)
    RungChoice(rung=0, reason=<RungReason.QUALITY_FLOOR: 'quality-floor'>)
    """
    asked = wish.asked_rung
    if wish.is_pinned:
        return RungChoice(asked if rungs[asked].is_up else None, RungReason.EXPLICIT)
    if rungs[asked].facts.quality_loss is not None and 1 - rungs[asked].facts.cautious_loss < wish.min_quality:
        return RungChoice(None, RungReason.QUALITY_FLOOR)
    up = [rung for rung in (asked, *_accepted_below(wish, rungs)) if rungs[rung].is_up]
    affordable = [rung for rung in up if rung == asked or rungs[rung].may_degrade]
    if not affordable:
        return RungChoice(None, RungReason.BUDGET if up else RungReason.UNAVAILABLE)
    rung, reason = _by_level(wish, affordable, level)
    above = affordable.index(rung) - 1
    if reason is RungReason.LEVEL and above >= 0 and rungs[affordable[above]].has_room_to_mix:
        rung, reason = affordable[above], RungReason.ROOM
    if rung == asked:
        return RungChoice(rung, _reason_to_stay(wish, level, up, affordable))
    return RungChoice(rung, RungReason.UNAVAILABLE if asked not in up and level <= asked else reason)


def _accepted_below(wish: Wish, rungs: Sequence[RungView]) -> list[int]:
    if wish.degrade is Degrade.NEVER:
        return []
    below = range(wish.asked_rung + 1, len(rungs))
    return [rung for rung in below if 1 - rungs[rung].facts.cautious_loss >= wish.min_quality]


def _by_level(wish: Wish, affordable: Sequence[int], level: int) -> tuple[int, RungReason]:
    """The first affordable rung at or below the level, else the lowest; a session stays where leaving is dear."""
    if wish.degrade is Degrade.PREFERRED:
        return affordable[-1], RungReason.PREFERRED
    wanted = next((rung for rung in affordable if rung >= level), affordable[-1])
    before = wish.session_rung
    if before is not None and before != wanted and before in affordable and wish.is_session_costly:
        return before, RungReason.SESSION
    return wanted, RungReason.LEVEL


def _reason_to_stay(wish: Wish, level: int, up: Sequence[int], affordable: Sequence[int]) -> RungReason:
    if level <= wish.asked_rung or wish.degrade is Degrade.NEVER:
        return RungReason.ASKED
    if len(up) == 1 and wish.min_quality > 0:
        return RungReason.QUALITY_FLOOR
    if len(affordable) < len(up):
        return RungReason.BUDGET
    return RungReason.ASKED


@dataclass(frozen=True, slots=True)
class Level:
    """How far down the ladder is, and what its next move depends on.

    Step 0 is the top. Where a class allows its answers to be trimmed, that is step 1 and the rungs come after it.

    Args:
        step: Where it stands.
        changed_s: Since when.
        overloaded_since_s: Since when there has been an overload without a break; None while there is none.
        failed_per_s: Arrivals per replica at which the step above was left last; None before that.
        patience_s: How long it stays here at least while arrivals are not clearly below that.
    """

    step: int = 0
    changed_s: float = -1e9
    overloaded_since_s: float | None = None
    failed_per_s: float | None = None
    patience_s: float = 0.0


class LadderLoad(msgspec.Struct, frozen=True):
    """What the level is decided by. Arrivals are those per replica: more of them serve more.

    Args:
        is_overloaded: Requests wait too long, or were shed.
        arrivals_per_s: Per replica of the rung that serves now.
        arrivals_above_per_s: Per replica of the rung a step further up.
    """

    is_overloaded: bool
    arrivals_per_s: float
    arrivals_above_per_s: float


def next_level(level: Level, load: LadderLoad, policy: LadderPolicy, *, lowest: int, now_s: float) -> Level:
    """The level after `now_s`: the same object when nothing changes.

    Down when an overload lasts. Up when arrivals are clearly fewer than those that the step above could not serve, else
    as a trial: each one that fails soon doubles the patience until the next.
    """
    if load.is_overloaded:
        since_s = now_s if level.overloaded_since_s is None else level.overloaded_since_s
        if level.step < lowest and now_s - max(since_s, level.changed_s) >= policy.down_dwell_s:
            is_failed_trial = level.patience_s > 0 and now_s - level.changed_s < policy.trial_s
            patience_s = min(2 * level.patience_s, policy.most_patience_s) if is_failed_trial else policy.up_dwell_s
            return Level(level.step + 1, now_s, None, load.arrivals_per_s, patience_s)
        return level if level.overloaded_since_s is not None else replace(level, overloaded_since_s=now_s)
    if level.overloaded_since_s is not None:
        level = replace(level, overloaded_since_s=None)
    if level.step == 0:
        return level
    failed = level.failed_per_s
    is_clear = failed is not None and load.arrivals_above_per_s < policy.up_load_share * failed
    if now_s - level.changed_s < (policy.up_dwell_s if is_clear else level.patience_s):
        return level
    # a step further up has its own history, which is not known any more: it is tried like the first time
    return Level(level.step - 1, now_s, None, failed, level.patience_s)
