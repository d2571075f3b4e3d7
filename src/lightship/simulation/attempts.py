"""Attempts in virtual time: which replica gets one, what its engine makes of it, and what happens when it fails.

What the gateway does round its replicas: `pick_replica` chooses, the work ledger counts, the retry budget allows
another replica before the first byte, `choose_ejected` takes out those that are much slower than their peers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lightship.gateway.routing.load import OutputLengths
from lightship.gateway.routing.outliers import choose_ejected
from lightship.gateway.routing.retrying import RetryBudget
from lightship.ports.engine import TokenUsage
from lightship.ports.replica_control import RungStatus
from lightship.simulation.engine.base import Refusal
from lightship.simulation.events import EventQueue
from lightship.simulation.gateway import MODEL, Gateway
from lightship.simulation.replicas import Fleet, Machine, Replica
from lightship.simulation.requests import Request
from lightship.simulation.routing import RungRouting
from lightship.simulation.scenario import Admission, Placement, Scenario, Upstream

_PATH = "/v1/completions"
# What the ledger is told of an answer under way: it is asked for nothing, for its work is never refreshed here.
_UNKNOWN_USAGE = TokenUsage()

Forward = Callable[[Request, float], None]
CancelChild = Callable[[Request], None]


class Attempts:
    """The replicas of one region as its gateway sees them.

    Args:
        scenario: Rungs, bounds, routing.
        events: Time.
        forward: Sends a request to where this region spills to; None: to the upstream.
        cancel_child: Tells another region that nobody waits for what was sent there any more.
        is_spill_up: Whether what it spills to takes requests.
    """

    gateway: Gateway
    fleets: Sequence[Fleet]
    """By rung; the same one for all of them where machines are shared."""

    def __init__(
        self,
        scenario: Scenario,
        events: EventQueue,
        *,
        forward: Forward | None,
        cancel_child: CancelChild,
        is_spill_up: Callable[[], bool],
    ) -> None:
        admission: Admission = scenario.admission
        self._routing = scenario.routing
        self._upstream: Upstream | None = scenario.upstream
        self._priorities = scenario.priorities
        self._is_shared = scenario.placement is Placement.SHARED
        self._max_attempts = admission.max_attempts
        self._events = events
        self._forward = forward
        self.cancel_child = cancel_child
        self._replicas: dict[str, Replica] = {}
        self.elsewhere: dict[Request, None] = {}
        """Under way at another region or an upstream, in the order they went."""
        self.is_away = False
        self._is_spill_up = is_spill_up
        self._budget = RetryBudget(admission.retry_budget_share, clock=events)
        self._lengths = OutputLengths(scenario.routing.output_quantile)
        self._num_local = len(scenario.ladder)
        self._num_starts = 0
        self.rungs = [RungRouting(rung, scenario.routing) for rung in range(self._num_local)]
        self.in_flight = [0] * self._num_local
        self.woken: dict[int, float] = {}
        self.num_ejections = 0
        self.upstream_usd = 0.0

    # See `Backend`

    def is_up(self, rung: int) -> bool:
        """See `Backend`."""
        return self.rungs[rung].num_ready > 0 if rung < self._num_local else self._is_spill_up()

    def status(self, rung: int) -> RungStatus:
        """See `Backend`."""
        fleet = self.fleets[rung]
        can_wake = fleet.spec.policy.max_replicas > 0
        return RungStatus(
            phase=fleet.status_phase,
            num_ready=fleet.num_ready,
            num_starting=fleet.num_starting,
            start_remaining_s=fleet.spec.startup_s,
            can_wake=can_wake,
        )

    def wake(self, rung: int) -> None:
        """See `Backend`."""
        self.woken.setdefault(rung, self._events.now_s)

    def start(self, request: Request, now_s: float) -> None:
        """See `Backend`."""
        ticket = request.ticket
        assert ticket is not None
        if ticket.rung >= self._num_local:
            self._spill(request, now_s)
            return
        self._budget.note_request()
        request.excluded, request.num_attempts, request.num_shed = frozenset(), 0, 0
        self._attempt(request, now_s)

    def leave(self, request: Request) -> None:
        """See `Backend`."""
        replica = request.replica
        if replica is not None:
            replica.engine.cancel(request, self._events.now_s)
            self._give_up(request, replica)
            self._engine_changed(replica, self._events.now_s)
            replica.machine.fleet.note_idle(replica.machine, self._events.now_s)
            return
        self.elsewhere.pop(request, None)
        if request.child is not None and not request.child.is_over:
            self.cancel_child(request.child)

    # Replicas

    def machine_ready(self, machine: Machine) -> None:
        """Its engines take requests."""
        for replica in machine.replicas:
            self.rungs[replica.rung].add(replica.state)
            self._replicas[replica.state.name] = replica
            self._note_replicas(replica.rung)
        self.gateway.readiness_changed(self._events.now_s)

    def machine_gone(self, machine: Machine, lost: Sequence[Request]) -> None:
        """They take none any more, and what is `lost` was under way there."""
        for replica in machine.replicas:
            self.rungs[replica.rung].remove(replica.state)
            self._note_replicas(replica.rung)
            self._replicas.pop(replica.state.name, None)
        now_s = self._events.now_s
        for request in lost:
            at = request.replica
            assert at is not None, "what is lost was at a replica"
            self._give_up(request, at)
            at.tally.note_end(is_failed=True)
            if self.is_away:
                self.gateway.broken(request, now_s, "region away")
            elif request.first_s is None:
                self._try_again(request, at.state.name, now_s)
            else:
                self.gateway.broken(request, now_s, "replica died")

    def set_slow(self, machine: Machine, factor: float, now_s: float) -> None:
        """Effects: everything on the machine takes so many times as long from now on."""
        machine.slow_factor = factor
        self._share_machine(machine, now_s)

    def judge(self, now_s: float) -> None:
        """Effects: replicas that did much worse than their peers since the last time get nothing for a while."""
        config = self._routing.outliers
        for routing in self.rungs:
            replicas = [one for one in self._replicas.values() if one.rung == routing.rung and one.state.is_ready]
            showings = {one.state.name: one.tally.take(min_timed=config.min_attempts) for one in replicas}
            inside = [one for one in replicas if one.state.blocked_until_s <= now_s]
            ejected = choose_ejected(
                {one.state.name: showings[one.state.name] for one in inside},
                num_on_rung=len(replicas),
                num_out=len(replicas) - len(inside),
                config=config,
            )
            for one in inside:
                if one.state.name in ejected:
                    one.ejected_in_a_row += 1
                    length_s = min(config.ejection_s * one.ejected_in_a_row, config.longest_ejection_s)
                    one.state.blocked_until_s = now_s + length_s
                    self.num_ejections += 1
                elif showings[one.state.name].num_attempts >= config.min_attempts:
                    one.ejected_in_a_row = 0

    def _note_replicas(self, rung: int) -> None:
        self.gateway.dispatcher.note_replicas(MODEL, rung, self.rungs[rung].num_ready)

    # Attempts

    def _attempt(self, request: Request, now_s: float) -> None:
        ticket = request.ticket
        assert ticket is not None
        routing = self.rungs[ticket.rung]
        choice = routing.pick(excluded=request.excluded, now_s=now_s)
        if choice.replica is None:
            if request.num_attempts:
                self._budget.give_back()
            self.gateway.failed_on_rung(request, now_s)
            return
        replica = self._replicas[choice.replica.name]
        arrival = request.arrival
        num_output = _num_output_tokens(request)
        why = replica.engine.submit(
            request, num_prompt_tokens=arrival.num_prompt_tokens, num_output_tokens=num_output, now_s=now_s
        )
        if why is Refusal.TOO_LONG:
            self.gateway.broken(request, now_s, "too long for the engine")
            return
        if why is Refusal.FULL:
            request.num_shed += 1
            self._try_again(request, replica.state.name, now_s)
            return
        self._num_starts += 1
        replica.state.last_start = self._num_starts
        request.replica, request.started_s = replica, now_s
        expected = self._lengths.expected(
            _PATH, served_model=MODEL, rung=ticket.rung, most=ticket.terms.max_output_tokens
        )
        request.work = replica.ledger.add(num_uncached_tokens=arrival.num_prompt_tokens, num_expected_tokens=expected)
        request.num_tokens = num_output
        self.in_flight[ticket.rung] += 1
        routing.note(replica.state)
        self._engine_changed(replica, now_s)

    def _try_again(self, request: Request, failed: str, now_s: float) -> None:
        """Another replica of the rung, as `RetryingEngine` allows, or else another rung."""
        request.num_attempts += 1
        request.excluded |= {failed}
        may_retry = request.num_attempts < self._max_attempts and request.num_shed <= 1 and self._budget.try_take()
        if may_retry:
            self._attempt(request, now_s)
        else:
            self.gateway.failed_on_rung(request, now_s)

    def _give_up(self, request: Request, replica: Replica) -> None:
        assert request.work is not None
        replica.ledger.remove(request.work)
        self.in_flight[replica.rung] -= 1
        request.work, request.replica = None, None
        self.rungs[replica.rung].note(replica.state)

    def _engine_changed(self, replica: Replica, now_s: float) -> None:
        """Effects: its next event is planned; engines that share a machine share its time."""
        has_work = replica.engine.next_event_s < math.inf
        if has_work != replica.has_work:
            replica.has_work = has_work
            replica.machine.num_active += 1 if has_work else -1
            if self._is_shared:
                self._share_machine(replica.machine, now_s)
        self._schedule(replica)

    def _share_machine(self, machine: Machine, now_s: float) -> None:
        factor = machine.slow_factor * max(1, machine.num_active if self._is_shared else 1)
        for replica in machine.replicas:
            replica.engine.set_slowdown(factor, now_s)
            self._schedule(replica)

    def _schedule(self, replica: Replica) -> None:
        at_s = replica.engine.next_event_s
        if at_s != replica.scheduled_s:
            replica.scheduled_s = at_s
            if at_s < math.inf:
                self._events.plan(at_s, self._engine_event, replica)

    def _engine_event(self, now_s: float, replica: Replica) -> None:
        if replica.engine.next_event_s != now_s or replica.scheduled_s != now_s:
            return  # it was planned anew meanwhile
        replica.scheduled_s = math.inf
        progress = replica.engine.advance()
        self._engine_changed(replica, now_s)
        for request in progress.first:
            self._first_byte(request, replica, now_s)
        for request in progress.finished:
            self._finished(request, replica, now_s)
        if progress.finished and replica.machine.is_draining:
            replica.machine.fleet.note_idle(replica.machine, now_s)

    def _first_byte(self, request: Request, replica: Replica, now_s: float) -> None:
        if request.arrival.kind.is_streamed:
            assert request.work is not None
            replica.ledger.note_first_byte(request.work, _UNKNOWN_USAGE)
            replica.tally.note_first_token(
                after_s=now_s - request.started_s, num_uncached_tokens=request.arrival.num_prompt_tokens
            )
            self.rungs[replica.rung].note(replica.state)
        self.gateway.first_byte(request, now_s)

    def _finished(self, request: Request, replica: Replica, now_s: float) -> None:
        self._give_up(request, replica)
        replica.tally.note_end(is_failed=False)
        self._lengths.note(_PATH, served_model=MODEL, rung=replica.rung, num_tokens=request.num_tokens)
        self.gateway.finished(request, now_s, num_tokens=request.num_tokens)

    # Elsewhere

    def _spill(self, request: Request, now_s: float) -> None:
        self.elsewhere[request] = None
        if self._forward is not None:
            self._forward(request, now_s)
            return
        upstream = self._upstream
        assert upstream is not None, "there is a spill rung only where there is something behind it"
        request.spilled_loss = upstream.quality_loss
        request.num_tokens = _num_output_tokens(request)
        # it is paid whatever becomes of the answer here
        self.upstream_usd += (
            request.arrival.num_prompt_tokens * upstream.usd_per_1m_input_tokens
            + request.num_tokens * upstream.usd_per_1m_output_tokens
        ) / 1e6
        first_s = now_s + upstream.ttft_s
        self._events.plan(first_s, self.spill_first, request)
        end_s = first_s + upstream.tpot_s * (request.num_tokens - 1)
        self._events.plan(end_s, self.spill_finished, request)

    def spill_first(self, now_s: float, request: Request) -> None:
        """The answer of an upstream begins."""
        if not request.is_over:
            self.gateway.first_byte(request, now_s)

    def spill_finished(self, now_s: float, request: Request) -> None:
        """It is complete."""
        if not request.is_over:
            self.elsewhere.pop(request, None)
            self.gateway.finished(request, now_s, num_tokens=request.num_tokens)


def _num_output_tokens(request: Request) -> int:
    """Of its answer: what it would say, up to its own bound and to what it is trimmed to."""
    arrival, ticket = request.arrival, request.ticket
    assert ticket is not None
    bounds = [arrival.num_output_tokens, arrival.kind.max_tokens]
    if ticket.is_trimmed:
        bounds.append(ticket.terms.trimmed_output_tokens)
    return min(bound for bound in bounds if bound is not None)
