"""The times in a replica's life as platforms want them: probes, waits before and after the stop signal. Pure.

    start .. startup budget .. ready | stop asked: endpoints forget it (pre-stop) -> SIGTERM -> drain -> killed at grace

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination; vLLM's --shutdown-timeout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightship.deploy.document import Reckoning
from lightship.ports.deployment import DeployedGateway, DeployedRung, Figure

# Endpoints are forgotten by every proxy within this time after a Pod begins to end. Source: KServe waits as long.
PRE_STOP_S = 15
STARTUP_PERIOD_S = 5
# Image pulls come before the container and so before the probe; a node pulls some ten gigabytes in that time.
PULL_ALLOWANCE_S = 900
_GRACE_FACTOR = 1.5
_STEP_S = 5


@dataclass(frozen=True)
class Lifecycle:
    """All of it in whole seconds.

    Args:
        startup_budget_s: Longest time from the start of the process to readiness.
        startup_failures: Probes of `STARTUP_PERIOD_S` that may fail before it is given up.
        progress_deadline_s: Longest time of a rollout without progress, image pull included.
        pre_stop_s: Wait before the stop signal.
        drain_s: Time under way requests get after it.
        grace_s: From the beginning of the wait to the kill.
    """

    startup_budget_s: int
    startup_failures: int
    progress_deadline_s: int
    pre_stop_s: int
    drain_s: int
    grace_s: int
    reckonings: tuple[Reckoning, ...]


def rung_lifecycle(rung: DeployedRung, name: str) -> Lifecycle:
    """Of one replica of a rung; an engine that ends at once when it is told to is told only after the drain."""
    return _lifecycle(name, rung.needs.startup_budget_s, rung.needs.drain_s, drains_itself=rung.drains_itself)


def gateway_lifecycle(gateway: DeployedGateway, rungs: list[Lifecycle], name: str) -> Lifecycle:
    """Of the gateway, which must outlast the engines it waits for: its grace is at least theirs."""
    own = _lifecycle(name, gateway.needs.startup_budget_s, gateway.needs.drain_s, drains_itself=True)
    longest = max((one.grace_s for one in rungs), default=0)
    if own.grace_s >= longest:
        return own
    how = f"{longest} s, the longest grace of its engines, above its own {own.grace_s} s"
    kept = tuple(one for one in own.reckonings if not one.what.endswith("grace"))
    reckonings = (*kept, Reckoning(f"{name}: grace", f"{longest} s", how))
    return Lifecycle(
        own.startup_budget_s,
        own.startup_failures,
        own.progress_deadline_s,
        own.pre_stop_s,
        own.drain_s,
        longest,
        reckonings,
    )


def _lifecycle(name: str, budget: Figure, drain: Figure, *, drains_itself: bool) -> Lifecycle:
    budget_s, drain_s = math.ceil(budget.value), math.ceil(drain.value)
    failures = math.ceil(budget_s / STARTUP_PERIOD_S)
    deadline_s = failures * STARTUP_PERIOD_S + PULL_ALLOWANCE_S
    pre_stop_s = PRE_STOP_S if drains_itself else PRE_STOP_S + drain_s
    total_s = pre_stop_s + drain_s if drains_itself else pre_stop_s
    grace_s = math.ceil(total_s * _GRACE_FACTOR / _STEP_S) * _STEP_S
    pre_stop_how = f"{PRE_STOP_S} s until every endpoint list has forgotten it"
    if not drains_itself:
        pre_stop_how += f" + drain {drain_s} s: this engine cuts answers at SIGTERM, so it is sent only then"
    wait = f"pre-stop {pre_stop_s} s" + (f" + drain {drain_s} s" if drains_itself else "")
    return Lifecycle(
        startup_budget_s=budget_s,
        startup_failures=failures,
        progress_deadline_s=deadline_s,
        pre_stop_s=pre_stop_s,
        drain_s=drain_s,
        grace_s=grace_s,
        reckonings=(
            Reckoning(f"{name}: startup budget", f"{budget_s} s", budget.how),
            Reckoning(
                f"{name}: startup failureThreshold",
                str(failures),
                f"{budget_s} s / {STARTUP_PERIOD_S} s between two probes, rounded up",
            ),
            Reckoning(
                f"{name}: progress deadline",
                f"{deadline_s} s",
                f"{failures} x {STARTUP_PERIOD_S} s + {PULL_ALLOWANCE_S} s for pulling images, which no probe counts",
            ),
            Reckoning(f"{name}: pre-stop wait", f"{pre_stop_s} s", pre_stop_how),
            Reckoning(f"{name}: drain", f"{drain_s} s", drain.how),
            Reckoning(
                f"{name}: grace",
                f"{grace_s} s",
                f"({wait}) x {_GRACE_FACTOR:g}, rounded up to {_STEP_S} s, so that it is more than both",
            ),
        ),
    )
