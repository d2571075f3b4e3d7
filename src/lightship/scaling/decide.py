"""How many replicas a pool should have: one pure function for the supervisor, the controller and the simulation.

    missing data      nothing changes
    a waiting request and nothing runs      one starts
    more load than the replicas should have under way      up, at once and as far as needed
    less load         down by one at a time, never below the most that was wanted within the window
    no request for `idle_after_s`           down to the least, which may be none

Load is requests: those under way, those that wait, and, where replicas come before lower rungs, those that a lower rung
answers meanwhile. A processor's or accelerator's utilisation says nothing here, for a single batch keeps it busy. Going
up at once and down by the window's maximum is the rule of the Kubernetes HorizontalPodAutoscaler (its
`behavior.scaleDown.stabilizationWindowSeconds`), whose default window is taken too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgspec.structs import replace

from lightship.scaling.records import Prefer, ScaleDecision, ScaleHistory, ScaleLoad, ScalePolicy, ScaleReason


@dataclass(frozen=True)
class _Wanted:
    """What the load alone asks for."""

    replicas: int
    reason: ScaleReason
    detail: str


def scale(load: ScaleLoad, history: ScaleHistory, policy: ScalePolicy) -> ScaleDecision:
    """How many replicas there should be now, and why.

    Args:
        load: How the pool stands.
        history: What the last call returned, or a fresh one with the number that runs.
        policy: How it is scaled.
    """
    if not load.is_complete:
        detail = f"counts are missing: {history.replicas} stay"
        return ScaleDecision(replicas=history.replicas, reason=ScaleReason.MISSING_DATA, detail=detail, history=history)
    history = _noted(load, history)
    if _is_idle(load, history, policy) and history.replicas > policy.min_replicas:
        idle_s = load.now_s - (history.last_busy_s or 0.0)
        return _decided(load, history, _Wanted(policy.min_replicas, ScaleReason.IDLE, f"idle for {idle_s:.0f} s"))
    wanted = _bounded(_wanted(load, history, policy), history, policy)
    history = _remembering(wanted, load, history, policy)
    if wanted.replicas >= history.replicas:
        reason = wanted.reason if wanted.replicas > history.replicas or _is_capped(wanted) else ScaleReason.STEADY
        return _decided(load, history, _Wanted(wanted.replicas, reason, wanted.detail))
    return _decided(load, history, _going_down(wanted, load, history, policy))


def most_replicas(policy: ScalePolicy) -> int:
    """The most there may be: the bound on their number, or what the money allows; never below the least."""
    most = policy.max_replicas
    if policy.max_usd_per_hour is not None and policy.usd_per_replica_hour:
        most = min(most, math.floor(policy.max_usd_per_hour / policy.usd_per_replica_hour + 1e-9))
    return max(most, policy.min_replicas)


def _noted(load: ScaleLoad, history: ScaleHistory) -> ScaleHistory:
    """The history with the time of the last request; the clock of idleness begins with the first call."""
    if _num_requests(load) > 0 or history.last_busy_s is None:
        return replace(history, last_busy_s=load.now_s)
    return history


def _is_idle(load: ScaleLoad, history: ScaleHistory, policy: ScalePolicy) -> bool:
    last_busy_s = load.now_s if history.last_busy_s is None else history.last_busy_s
    return _num_requests(load) == 0 and load.now_s - last_busy_s >= policy.idle_after_s


def _num_requests(load: ScaleLoad) -> float:
    """All that keep it from being idle; those on lower rungs would be here if there were room."""
    return load.num_queued + load.num_in_flight + load.num_degraded


def _wanted(load: ScaleLoad, history: ScaleHistory, policy: ScalePolicy) -> _Wanted:
    num_degraded = load.num_degraded if policy.prefer is Prefer.REPLICAS else 0.0
    demand = load.num_queued + load.num_in_flight + num_degraded
    if not demand:
        # until it is idle one stays: a pause between two requests is no reason to start again
        least = min(1, history.replicas)
        return _Wanted(least, ScaleReason.LESS_LOAD, "no requests")
    each = _in_flight_each(policy)
    replicas = math.ceil(demand / each - 1e-9)
    degraded = f", {num_degraded:g} on lower rungs" if num_degraded else ""
    detail = f"{load.num_in_flight} under way{degraded} and {load.num_queued} waiting at {each:g} each"
    reason = ScaleReason.WAKE if not history.replicas else ScaleReason.LOAD
    is_missed = load.attainment is not None and load.attainment < policy.attainment
    if is_missed and load.num_ready and replicas <= load.num_ready:
        # those that start are given the time to help before more are asked for
        is_settled = load.num_ready >= history.replicas and not load.num_starting
        share = f"{load.attainment:.0%} of answers keep the promise, {policy.attainment:.0%} must"
        more = load.num_ready + 1 if is_settled else max(replicas, history.replicas)
        return _Wanted(more, ScaleReason.ATTAINMENT, share)
    return _Wanted(replicas, reason, detail)


def _in_flight_each(policy: ScalePolicy) -> float:
    if policy.prefer is Prefer.LADDER and policy.in_flight_at_lowest_rung is not None:
        return max(policy.in_flight_per_replica, policy.in_flight_at_lowest_rung)
    return policy.in_flight_per_replica


def _bounded(wanted: _Wanted, history: ScaleHistory, policy: ScalePolicy) -> _Wanted:
    most = most_replicas(policy)
    if wanted.replicas > most:
        is_money = most < policy.max_replicas
        detail = f"{wanted.detail}: {wanted.replicas} wanted, at most {most} " + ("paid for" if is_money else "allowed")
        return _Wanted(most, ScaleReason.COST if is_money else ScaleReason.BOUNDS, detail)
    if wanted.replicas < policy.min_replicas:
        is_raised = history.replicas < policy.min_replicas
        reason = ScaleReason.BOUNDS if is_raised else wanted.reason
        return _Wanted(policy.min_replicas, reason, f"{wanted.detail}; never below {policy.min_replicas}")
    return wanted


def _is_capped(wanted: _Wanted) -> bool:
    return wanted.reason in {ScaleReason.COST, ScaleReason.BOUNDS}


def _remembering(wanted: _Wanted, load: ScaleLoad, history: ScaleHistory, policy: ScalePolicy) -> ScaleHistory:
    """The history with what is wanted now; entries that a later one is at least as high as say nothing any more."""
    oldest_s = load.now_s - _window_s(policy)
    kept = [(at_s, n) for at_s, n in history.wanted if at_s > oldest_s and n > wanted.replicas]
    return replace(history, wanted=(*kept, (load.now_s, wanted.replicas)))


def _window_s(policy: ScalePolicy) -> float:
    # what takes long to come back is not let go for a lull that is shorter
    return max(policy.scale_down_window_s, policy.startup_s)


def _going_down(wanted: _Wanted, load: ScaleLoad, history: ScaleHistory, policy: ScalePolicy) -> _Wanted:
    highest = max(n for _, n in history.wanted)
    current = history.replicas
    if highest >= current:
        detail = f"{wanted.replicas} wanted now, {highest} within the last {_window_s(policy):.0f} s"
        return _Wanted(current, ScaleReason.STABILIZING, detail)
    since_s = math.inf if history.last_down_s is None else load.now_s - history.last_down_s
    if since_s < policy.scale_down_period_s:
        detail = f"{highest} wanted, and one went {since_s:.0f} s ago"
        return _Wanted(current, ScaleReason.STABILIZING, detail)
    return _Wanted(current - 1, ScaleReason.LESS_LOAD, wanted.detail)


def _decided(load: ScaleLoad, history: ScaleHistory, wanted: _Wanted) -> ScaleDecision:
    is_down = wanted.replicas < history.replicas
    after = replace(history, replicas=wanted.replicas, last_down_s=load.now_s if is_down else history.last_down_s)
    return ScaleDecision(replicas=wanted.replicas, reason=wanted.reason, detail=wanted.detail, history=after)
