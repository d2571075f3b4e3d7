"""What probes and connections say about a replica's readiness; pure.

    not ready --probe says ready--> ready --probe says not ready, or nobody listens--> not ready
                                    ready --several probes without an answer---------> not ready
                                    ready --several attempts in a row cannot connect-> not ready

A replica that has no readiness endpoint counts as ready (see `RemoteEngine.probe_ready`). A busy one that answers a
probe late stays ready for a while: taking it out would only press the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightship.engines.remote import ProbeResult

PROBES_WITHOUT_ANSWER = 3
FAILED_CONNECTS = 2


@dataclass(frozen=True)
class Health:
    """What is known of a replica's readiness."""

    is_ready: bool = False
    num_unanswered: int = 0
    num_failed_connects: int = 0


def health_after_probe(health: Health, result: ProbeResult) -> Health:
    """The next state after a probe."""
    if result is ProbeResult.READY:
        return Health(is_ready=True)
    if result is ProbeResult.TIMED_OUT:
        num_unanswered = health.num_unanswered + 1
        is_ready = health.is_ready and num_unanswered < PROBES_WITHOUT_ANSWER
        return replace(health, is_ready=is_ready, num_unanswered=num_unanswered)
    return Health(is_ready=False)


def health_after_failed_connect(health: Health) -> Health:
    """The next state after an attempt that could not connect."""
    num_failed = health.num_failed_connects + 1
    return replace(health, is_ready=health.is_ready and num_failed < FAILED_CONNECTS, num_failed_connects=num_failed)
