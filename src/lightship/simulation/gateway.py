"""One gateway in virtual time: the dispatcher decides, and here is what `admitting` and `holding` do about it.

arrive --> held until a rung is up --> offered --> started --> first byte --> finished
                |                        | |          '--> all its replicas failed: offered again, another rung
                '--> gives up            | '--> waits --> started, or has to go
                                         '--> refused
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Protocol

from lightship.gateway.activation.decide import HoldDecision, RungSeen, hold_or_pass
from lightship.gateway.dispatch.config import DispatchConfig
from lightship.gateway.dispatch.dispatcher import Dispatcher
from lightship.gateway.dispatch.ticket import Answered, Refuse, Start, Ticket
from lightship.ports.engine import CallTerms, Degrade, EngineCall, Outcome
from lightship.ports.replica_control import RungStatus
from lightship.simulation.events import EventQueue
from lightship.simulation.recording import LADDER, Decision, DecisionList, Recorder
from lightship.simulation.requests import Request
from lightship.simulation.scenario import Admission, RequestKind

MODEL = "model"
# Seconds. See `gateway.dispatch.admitting`.
_TICK_S = 0.05


class Backend(Protocol):
    """Who makes attempts: replicas, other regions, upstreams."""

    def is_up(self, rung: int) -> bool:
        """Whether a rung takes requests."""
        ...

    def status(self, rung: int) -> RungStatus:
        """How its replicas stand."""
        ...

    def wake(self, rung: int) -> None:
        """A request wants it."""
        ...

    def start(self, request: Request, now_s: float) -> None:
        """Its ticket has started."""
        ...

    def leave(self, request: Request) -> None:
        """Its client has left before the first byte."""
        ...


class Gateway:
    """See the module.

    Args:
        name: Of the region.
        config: Ladders, classes and bounds.
        admission: Bounds on what is held.
        events: Time.
        recorder: Counts ends.
        backend: Makes attempts.
        decisions: Where moves of the ladder are noted.
    """

    def __init__(
        self,
        name: str,
        config: DispatchConfig,
        *,
        admission: Admission,
        events: EventQueue,
        recorder: Recorder,
        backend: Backend,
        decisions: DecisionList,
    ) -> None:
        self._name = name
        self._config = config
        self._admission = admission
        self._events = events
        self._recorder = recorder
        self._backend = backend
        self._decisions = decisions
        self._tick_at_s = math.inf
        self._held: deque[Request] = deque()
        self._open: dict[Request, None] = {}
        self._step = 0
        self._terms: dict[int, CallTerms] = {}  # by identity of the kind, which takes long to hash
        self.start_anew()

    def start_anew(self) -> None:
        """Effects: a gateway that knows nothing: its budgets and what it learned are gone with its process."""
        self.dispatcher = Dispatcher(self._config, is_up=lambda model, rung: self._backend.is_up(rung))
        self.ladder = self.dispatcher.ladders[MODEL]
        self._note_level(self._events.now_s)

    def num_held_by_rung(self) -> Counter[int]:
        """Requests that wait for a rung to wake; all ask for the top one."""
        return Counter({0: len(self._held)})

    def arrive(self, request: Request, now_s: float, *, may_leave: bool = True) -> None:
        """A request has come to this gateway, from a client or from another region."""
        kind = request.arrival.kind
        request.arrived_s = now_s
        self._open[request] = None
        if kind.patience_s is not None and request.origin is None:
            self._events.plan(request.arrival.at_s + kind.patience_s, self._lose_patience, request)
        request.ticket = self._ticket(request, now_s, may_leave=may_leave)
        if self._is_held(request, now_s):
            return
        self._offer(request, now_s)

    def readiness_changed(self, now_s: float) -> None:
        """A rung is up, or not any more: whoever was held for it is offered."""
        for _ in range(len(self._held)):
            request = self._held.popleft()
            if request.is_over or not request.is_held:
                continue
            decision = self._hold_decision(request)
            if decision.is_held:
                self._held.append(request)
                continue
            request.is_held = False
            assert request.ticket is not None
            # its promise counts from here, as in the gateway: before, it was the model's waking
            request.ticket = self._ticket(request, now_s, may_leave=request.ticket.terms.may_leave)
            self._offer(request, now_s)
        if self.dispatcher.num_waiting:
            self.advance(now_s)

    def first_byte(self, request: Request, now_s: float) -> None:
        """The answer begins."""
        request.first_s = now_s
        if request.on_first is not None:
            request.on_first(request, now_s)
        if request.arrival.kind.is_streamed:
            assert request.ticket is not None
            self.dispatcher.first_byte(request.ticket, now_s)

    def finished(self, request: Request, now_s: float, *, num_tokens: int) -> None:
        """The answer is complete."""
        ticket = request.ticket
        assert ticket is not None
        if request.arrival.kind.is_streamed:
            assert request.first_s is not None
            tpot_s = (now_s - request.first_s) / (num_tokens - 1) if num_tokens > 1 else None
            answered = Answered(request.first_s - ticket.started_s, tpot_s, num_tokens)
        else:
            self.dispatcher.first_byte(ticket, now_s)
            answered = Answered(0.0, None, num_tokens)
        self.dispatcher.finish(ticket, now_s, answered)
        is_degraded = ticket.rung != ticket.asked_rung or ticket.is_trimmed
        outcome = Outcome.DEGRADED if is_degraded else Outcome.SERVED
        reason = ticket.reason.value if ticket.rung != ticket.asked_rung else "trimmed" if ticket.is_trimmed else ""
        self._end(request, outcome, f"degraded: {reason}" if reason else "", now_s, num_tokens=num_tokens)
        if self.dispatcher.num_waiting:
            self.advance(now_s)

    def failed_on_rung(self, request: Request, now_s: float) -> None:
        """No replica of its rung gave a first byte: another rung may."""
        ticket = request.ticket
        assert ticket is not None
        self.dispatcher.finish(ticket, now_s, None)
        request.has_failed = True
        again = Ticket(
            MODEL, ticket.asked_rung, ticket.is_pinned, ticket.terms, ticket.arrived_s, ticket.is_streamed,
            avoided=ticket.avoided | {ticket.rung},
        )  # fmt: skip
        again.handle = request
        request.ticket = again
        self._offer(request, now_s)

    def broken(self, request: Request, now_s: float, reason: str) -> None:
        """It has failed for good: after its first byte nothing is tried again."""
        assert request.ticket is not None
        self.dispatcher.finish(request.ticket, now_s, None)
        self._end(request, Outcome.FAILED, f"failed: {reason}", now_s)
        if self.dispatcher.num_waiting:
            self.advance(now_s)

    def cancel(self, request: Request, now_s: float) -> None:
        """Its client, or the region that sent it, does not want it any more."""
        ticket = request.ticket
        assert ticket is not None
        if ticket.place is not None:
            self._backend.leave(request)
            self.dispatcher.finish(ticket, now_s, None)
        elif ticket.is_waiting:
            self.dispatcher.withdraw(ticket)
        request.is_held = False
        self._end(request, Outcome.CANCELLED, "", now_s)
        if self.dispatcher.num_waiting:
            self.advance(now_s)

    def lose_all(self, now_s: float) -> None:
        """Effects: the process is gone, and what it still had has failed."""
        for request in list(self._open):
            ticket = request.ticket
            assert ticket is not None
            if ticket.place is not None:
                self.dispatcher.finish(ticket, now_s, None)
            elif ticket.is_waiting:
                self.dispatcher.withdraw(ticket)
            request.is_held = False
            self._end(request, Outcome.FAILED, "failed: region away", now_s)
        self._held.clear()

    def advance(self, now_s: float) -> None:
        """Who starts now, and who has to go."""
        decisions = list(self.dispatcher.advance(now_s))
        self._note_level(now_s)
        for decision in decisions:
            request: Request = decision.ticket.handle
            if isinstance(decision, Start):
                self._backend.start(request, now_s)
            else:
                self._refused(request, decision, now_s, was_queued=True)
        self._set_timer(now_s)

    def _end(self, request: Request, outcome: Outcome, reason: str, now_s: float, *, num_tokens: int = 0) -> None:
        """The one end of a request that is here."""
        del self._open[request]
        self._recorder.ended(request, outcome, reason, now_s, num_tokens=num_tokens)

    def _ticket(self, request: Request, now_s: float, *, may_leave: bool) -> Ticket:
        arrival = request.arrival
        terms = self._terms_of(arrival.kind)
        prompt = arrival.num_prompt_tokens
        output = arrival.num_output_tokens if arrival.kind.has_fixed_length else arrival.kind.max_tokens
        terms = CallTerms(
            terms.tenant, terms.priority, terms.importance, "", prompt,
            output or self._config.default_output_tokens, math.inf, terms.max_wait_s,
            terms.may_leave and may_leave, terms.ttft_s, terms.tpot_s, terms.degrade, terms.min_quality,
            terms.trimmed_output_tokens,
        )  # fmt: skip
        ticket = Ticket(MODEL, 0, False, terms, now_s, request.arrival.kind.is_streamed)
        ticket.handle = request
        return ticket

    def _terms_of(self, kind: RequestKind) -> CallTerms:
        """What a kind of requests accepts and is promised, as `gateway.terms` reads it from keys and classes."""
        terms = self._terms.get(id(kind))
        if terms is None:
            priority = self._config.priority(kind.priority)
            assert priority is not None, "the scenario was checked"
            ttft_s = self.ladder.config.ttft_s
            terms = self._terms[id(kind)] = CallTerms(
                tenant=kind.tenant,
                priority=kind.priority,
                importance=priority.importance,
                max_wait_s=ttft_s if priority.max_wait_s is None else priority.max_wait_s,
                may_leave=kind.may_leave,
                ttft_s=ttft_s if priority.max_wait_s is None else math.inf,
                degrade=Degrade(priority.degrade),
                min_quality=priority.min_quality,
                trimmed_output_tokens=priority.trimmed_output_tokens,
            )
        return terms

    def _is_held(self, request: Request, now_s: float) -> bool:
        """Whether it waits for a model that wakes; then it is held, or has ended because too many are."""
        if self._backend.is_up(0):
            return False
        decision = self._hold_decision(request)
        if decision.wakes is not None:
            self._backend.wake(decision.wakes)
        if not decision.is_held:
            return False
        if len(self._held) >= self._admission.max_held:
            self._end(request, Outcome.REJECTED, "rejected: too many held", now_s)
            return True
        request.is_held = True
        self._held.append(request)
        self._events.plan(now_s + self._admission.hold_s, self._held_long_enough, request)
        return True

    def _hold_decision(self, request: Request) -> HoldDecision:
        assert request.ticket is not None
        call = EngineCall(
            path="", body=b"", request_id="", model=MODEL, served_model=MODEL, is_streaming=True,
            terms=request.ticket.terms,
        )  # fmt: skip
        rungs = self.dispatcher.acceptable_rungs(call)
        return hold_or_pass([RungSeen(rung, self._backend.is_up(rung), self._backend.status(rung)) for rung in rungs])

    def _held_long_enough(self, now_s: float, request: Request) -> None:
        if request.is_held and not request.is_over:
            request.is_held = False
            self._held.remove(request)
            self._end(request, Outcome.EVICTED, "evicted: held too long", now_s)

    def _lose_patience(self, now_s: float, request: Request) -> None:
        if not request.is_over and request.first_s is None:
            if request.is_held:
                self._held.remove(request)
            self.cancel(request, now_s)

    def _offer(self, request: Request, now_s: float) -> None:
        assert request.ticket is not None
        decision = self.dispatcher.offer(request.ticket, now_s)
        self._note_level(now_s)
        if isinstance(decision, Start):
            self._backend.start(request, now_s)
        elif isinstance(decision, Refuse):
            self._refused(request, decision, now_s, was_queued=False)
        else:
            self._set_timer(now_s)

    def _refused(self, request: Request, refused: Refuse, now_s: float, *, was_queued: bool) -> None:
        if request.has_failed:
            self._end(request, Outcome.FAILED, "failed: no rung answered", now_s)
            return
        outcome = Outcome.EVICTED if was_queued else Outcome.REJECTED
        self._end(request, outcome, f"{outcome.value}: {refused.reason.value}", now_s)

    def _set_timer(self, now_s: float) -> None:
        wake_s = self.dispatcher.next_wake_s()
        if wake_s is None:
            self._tick_at_s = math.inf
            return
        self._tick_at_s = now_s + min(_TICK_S, max(0.0, wake_s - now_s))
        self._events.plan(self._tick_at_s, self._tick)

    def _tick(self, now_s: float, argument: object) -> None:
        del argument
        if now_s == self._tick_at_s:
            self.advance(now_s)

    def _note_level(self, now_s: float) -> None:
        step = self.ladder.level.step
        if step == self._step:
            return
        rate = self.ladder.arrivals.per_s(now_s)
        reason = "overload" if step > self._step else "fewer arrivals, or a trial"
        detail = f"at {rate:.3g} arrivals/s"
        self._decisions.note(Decision(now_s, self._name, LADDER, self._step, step, reason, detail))
        self._recorder.series.level.set(now_s, step)
        self._step = step
