"""One request on its way through the simulation."""

from __future__ import annotations

from collections.abc import Callable

from lightship.gateway.dispatch.ticket import Ticket
from lightship.gateway.routing.load import AttemptWork
from lightship.ports.engine import Outcome
from lightship.simulation.replicas import Replica
from lightship.simulation.statistics import Tally
from lightship.simulation.traffic.stream import Arrival


class Request:
    """What a client asked for, and where it stands.

    `origin` is set where another region sent it: the request that waits there for this one, `child` there. `on_first`
    and `on_end` tell that region. `num_tokens` is what its answer has, `tally` where it is counted.
    """

    __slots__ = (
        "arrival", "arrived_s", "child", "excluded", "extra_rtt_s", "first_s", "has_failed", "is_counted", "is_held",
        "is_over", "num_attempts", "num_shed", "num_tokens", "on_end", "on_first", "origin", "replica", "spilled_loss",
        "started_s", "tally", "ticket", "work",
    )  # fmt: skip

    def __init__(self, arrival: Arrival, tally: Tally, *, is_counted: bool, extra_rtt_s: float = 0.0) -> None:
        self.arrival = arrival
        self.tally = tally
        self.is_counted = is_counted
        self.extra_rtt_s = extra_rtt_s
        self.arrived_s = arrival.at_s
        self.started_s = 0.0
        self.first_s: float | None = None
        self.ticket: Ticket | None = None
        self.replica: Replica | None = None
        self.work: AttemptWork | None = None
        self.excluded: frozenset[str] = frozenset()
        self.num_attempts = self.num_shed = self.num_tokens = 0
        self.has_failed = self.is_over = self.is_held = False
        self.origin: Request | None = None
        self.child: Request | None = None
        self.spilled_loss: float | None = None
        self.on_first: Callable[[Request, float], None] | None = None
        self.on_end: Callable[[Request, Outcome, float], None] | None = None
