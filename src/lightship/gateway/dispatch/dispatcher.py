"""Admission and the ladder as one state machine without a clock: told what happens, it says who starts, waits or goes.

The gateway drives it with the machine's clock, the simulation with a virtual one; a policy that was tried on a million
simulated requests is the policy that serves.

    offer        -> Start | Wait | Refuse     a request has come
    first_byte, finish                        what became of one that started: frees room, teaches the predictions
    withdraw                                  its client left while it waited
    advance      -> Start | Refuse, ...       who of the waiting starts now, and who may not wait any longer
    next_wake_s                               when `advance` has to be called even if nothing happens

A request starts when its device has room for it and its promise can be kept there. It is refused at once when the queue
before it is so long that it could not start in time: a wait that ends in a refusal helps nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from lightship.gateway.dispatch.capacity import Device
from lightship.gateway.dispatch.config import DispatchConfig
from lightship.gateway.dispatch.ladder import RungChoice, RungReason, Wish, choose_rung
from lightship.gateway.dispatch.ladder_state import LadderState, RungPlace
from lightship.gateway.dispatch.prediction import DecayingRate
from lightship.gateway.dispatch.spill import SpillBudget
from lightship.gateway.dispatch.ticket import Answered, Decision, RefusalReason, Refuse, Start, Ticket, Wait
from lightship.gateway.dispatch.waiting import WaitingRoom
from lightship.ports.engine import CallTerms, Degrade, EngineCall

# Seconds. What a refused client is told to wait, at least and at most.
_LEAST_RETRY_S, _MOST_RETRY_S = 0.5, 30.0
# Seconds over which the rate of starts is averaged, from which waits are predicted: short, for it moves with the rung.
_STARTS_S = 1.0
# Starts per second below which a wait cannot be predicted yet.
_LEAST_STARTS_PER_S = 0.5

# Recent answers before the share of kept promises among them says anything.
_LEAST_ANSWERS = 8.0

IsUp = Callable[[str, int], bool]
RungOfSession = Callable[[str, CallTerms], int | None]


class Dispatcher:
    """All requests of one process between their arrival and their end.

    Args:
        config: Ladders, classes and bounds.
        is_up: Whether a rung of a model has a replica that takes requests.
        rung_of_session: Where a request's session was answered last; None where that is not known.

    Concurrency: none of its own; one event loop calls it.
    """

    def __init__(
        self, config: DispatchConfig, *, is_up: IsUp, rung_of_session: RungOfSession = lambda model, terms: None
    ) -> None:
        self._is_up = is_up
        self._rung_of_session = rung_of_session
        self._devices: dict[str, Device] = {}
        self._rooms: dict[str, WaitingRoom] = {}
        self._starts: dict[str, DecayingRate] = {}
        self._spills: dict[str, SpillBudget] = {}
        self._evicted: list[Refuse] = []
        self.ladders: dict[str, LadderState] = {}
        self.apply(config)

    def apply(self, config: DispatchConfig) -> None:
        """Takes over another configuration.

        Requests under way and waiting ones stay; what was learned of rungs that are the same is kept.
        """
        for name in {rung.device for ladder in config.ladders.values() for rung in ladder.rungs}:
            self._devices.setdefault(name, Device()).part = config.capacity_share
            self._rooms.setdefault(name, WaitingRoom(max_queued=config.max_queued)).max_queued = config.max_queued
            self._starts.setdefault(name, DecayingRate(time_constant_s=_STARTS_S))
        can_trim = any(one.trimmed_output_tokens is not None for one in config.priorities.values())
        before = self.ladders
        self.ladders = {
            model: LadderState(ladder, self._devices, dispatch=config, can_trim=can_trim, before=before.get(model))
            for model, ladder in config.ladders.items()
        }
        for model, ladder in config.ladders.items():
            self._spills.setdefault(model, SpillBudget()).usd_per_hour = ladder.spill_usd_per_hour

    @property
    def num_waiting(self) -> int:
        """Requests in the queues."""
        return sum(room.count for room in self._rooms.values())

    @property
    def num_in_flight(self) -> int:
        """Requests that have started and not ended."""
        return sum(device.num_in_flight for device in self._devices.values())

    @property
    def devices(self) -> Mapping[str, Device]:
        """By name; nobody else changes them."""
        return self._devices

    def offer(self, ticket: Ticket, now_s: float) -> Decision:
        """A request has come. Where it pushes another one out of a full queue, `advance` tells that one."""
        ladder = self.ladders[ticket.served_model]
        room = self._rooms[ladder.home_device]
        if not ticket.avoided:  # one that comes back from a rung that failed has arrived before
            ladder.arrivals.note(now_s)
        self._update_level(ladder, now_s)
        ticket.start_by_s = min(ticket.arrived_s + ticket.terms.max_wait_s, ticket.terms.deadline_s)
        if ticket.asked_rung >= ladder.num_local:  # the spill rung by its name: within its money like everything there
            is_started = self._try_spill(ticket, ladder, now_s)
            return Start(ticket) if is_started else Refuse(ticket, RefusalReason.SATURATED, _MOST_RETRY_S)
        choice = self._choice(ticket, ladder, now_s)
        if choice.rung is None:
            if choice.reason is RungReason.UNAVAILABLE and self._try_spill(ticket, ladder, now_s):
                return Start(ticket)
            return self._refuse_for_good(ticket, choice)
        num_ahead = room.num_ahead_of(ticket.terms.importance)
        if not num_ahead and self._try_start(ticket, ladder, choice, now_s):
            room.start_at_once(ticket)
            self._starts[ladder.home_device].note(now_s)
            return Start(ticket)
        if self._try_spill(ticket, ladder, now_s):
            return Start(ticket)
        return self._queue(ticket, ladder, num_ahead, now_s)

    def acceptable_rungs(self, call: EngineCall) -> list[int]:
        """The rungs of this deployment that may answer a call, the one it asked for first."""
        ladder = self.ladders.get(call.served_model)
        if ladder is None or call.rung >= ladder.num_local:
            return []
        rungs, terms = ladder.config.rungs, call.terms
        takes_less = not call.is_pinned and terms.degrade is not Degrade.NEVER
        below = range(call.rung + 1, ladder.num_local) if takes_less else ()
        return [call.rung, *(rung for rung in below if 1 - rungs[rung].cautious_loss >= terms.min_quality)]

    def acceptable_digests(self, call: EngineCall) -> list[str]:
        """The variants whose answers a call accepts, the one it asked for first, as `x-served-variant` tells them: by
        digest, or by name where no digest is known.
        """
        rungs = self.acceptable_rungs(call)
        facts = [self.ladders[call.served_model].config.rungs[rung] for rung in rungs]
        return [one.variant_digest or one.variant_name for one in facts]

    def withdraw(self, ticket: Ticket) -> None:
        """The client of a waiting request has left."""
        if ticket.is_waiting:
            self._room_of(ticket).remove(ticket)

    def first_byte(self, ticket: Ticket, now_s: float) -> None:
        """The answer of a started request begins."""
        place = ticket.place
        if place is None or not ticket.is_prefill_ahead:
            return
        ticket.is_prefill_ahead = False
        place.device.note_first_byte(ticket.num_tokens)
        place.ttft.learn(ticket.tokens_ahead, now_s - ticket.started_s)

    def finish(self, ticket: Ticket, now_s: float, answered: Answered | None) -> None:
        """A started request has ended; `answered` is None where it was not answered to its end."""
        place, ladder = ticket.place, self.ladders.get(ticket.served_model)
        if place is None:
            return
        ticket.place = None
        if ticket.is_prefill_ahead:
            ticket.is_prefill_ahead = False
            place.device.note_first_byte(ticket.num_tokens)
        was_full = place.device.is_full or self.num_waiting > 0
        place.device.give_back(ticket.share, rung=ticket.rung)
        place.num_in_flight -= 1
        if ticket.is_short_of_room:
            place.num_degraded_from[ticket.asked_rung] -= 1
        if ladder is None:
            return
        self._rooms[ladder.home_device].settle(
            ticket, num_output_tokens=0 if answered is None else answered.num_output_tokens
        )
        self._settle(ticket, ladder, answered, now_s)
        if answered is None:
            return
        if answered.tpot_s is not None:
            place.tpot.learn(ticket.num_together, answered.tpot_s)
        kept_promise = _kept_promise(answered, ladder)
        place.kept.note(kept_promise, now_s)
        place.device.note_answer(
            kept_promise=kept_promise,
            was_full=was_full,
            attainment=ladder.config.attainment,
            started_s=ticket.started_s,
            now_s=now_s,
        )

    def advance(self, now_s: float) -> Iterator[Start | Refuse]:
        """Who starts now, and who has to go. To be called after every end, and at `next_wake_s`."""
        evicted, self._evicted = self._evicted, []
        yield from evicted
        for name, room in self._rooms.items():
            if not room.count:
                continue
            for ticket in room.expired(now_s):
                self.ladders[ticket.served_model].note_overload(now_s)
                yield self._refuse(ticket, RefusalReason.DEADLINE, now_s)
            while (started := self._next_start(room, now_s)) is not None:
                self._starts[name].note(now_s)
                yield Start(started)
        for ladder in self.ladders.values():
            self._update_level(ladder, now_s)

    def note_replicas(self, served_model: str, rung: int, num_ready: int) -> None:
        """So many replicas of a rung take requests. Where the rung has its device for itself each of them adds one: its
        measured concurrency is that of one replica. Rungs that share a device share one machine, whoever runs there.
        """
        device = self.ladders[served_model].places[rung].device
        users = sum(place.device is device for ladder in self.ladders.values() for place in ladder.places)
        device.num_replicas = max(1, num_ready) if users == 1 else 1

    def num_waiting_by_rung(self) -> Counter[tuple[str, int]]:
        """Requests in the queues, by model and the rung they asked for."""
        waiting = (ticket for room in self._rooms.values() for ticket in room.waiting())
        return Counter((ticket.served_model, ticket.asked_rung) for ticket in waiting)

    def degraded_demand(self, served_model: str, rung: int) -> float:
        """Requests under way on lower rungs for want of room on this one, in requests of its own speed."""
        return self.ladders[served_model].degraded_demand(rung)

    def attainment(self, served_model: str, rung: int, now_s: float) -> float | None:
        """Share of a rung's recent answers that kept the promise; None where there were too few to say."""
        return self.ladders[served_model].places[rung].kept.share(now_s, at_least=_LEAST_ANSWERS)

    def next_wake_s(self) -> float | None:
        """When the next waiting request has to go; None when none waits."""
        if self._evicted:
            return 0.0
        deadlines = [room.next_deadline_s() for room in self._rooms.values() if room.count]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _next_start(self, room: WaitingRoom, now_s: float) -> Ticket | None:
        for ticket in room.heads():
            ladder = self.ladders[ticket.served_model]
            choice = self._choice(ticket, ladder, now_s)
            if choice.rung is None:
                continue  # it waits for a replica to come back, and holds up nobody
            if self._try_start(ticket, ladder, choice, now_s):
                room.start(ticket)
                return ticket
            return None  # no room for the first in line: nobody else may take it
        return None

    def _choice(self, ticket: Ticket, ladder: LadderState, now_s: float) -> RungChoice:
        terms = ticket.terms
        if self._has_plain_choice(ticket, ladder):
            return RungChoice(ticket.asked_rung, RungReason.ASKED)
        before = self._rung_of_session(ticket.served_model, terms) if terms.session else None
        wish = Wish(
            asked_rung=ticket.asked_rung,
            is_pinned=ticket.is_pinned,
            degrade=terms.degrade,
            min_quality=terms.min_quality,
            session_rung=before,
            is_session_costly=before is not None and self._is_move_costly(ladder, before, terms.num_prompt_tokens),
        )
        is_up = [
            rung not in ticket.avoided and self._is_up(ticket.served_model, rung) for rung in range(ladder.num_local)
        ]
        level = ladder.level_rung
        choice = choose_rung(wish, ladder.views(now_s, is_up=is_up), level=level)
        if (
            choice.rung is None
            or choice.rung >= level
            or self._keeps_promise(ticket, ladder.places[choice.rung], now_s)
        ):
            return choice
        # there is room above the level, but not in time for this one
        return choose_rung(wish, ladder.views(now_s, is_up=is_up, is_mixing=False), level=level)

    def _has_plain_choice(self, ticket: Ticket, ladder: LadderState) -> bool:
        """Whether `choose_rung` would give what was asked for, told without looking at every rung: the common case."""
        terms, asked = ticket.terms, ticket.asked_rung
        return (
            ladder.level_rung <= asked
            and asked not in ticket.avoided
            and not (ticket.is_pinned or terms.session or terms.degrade is Degrade.PREFERRED)
            and (terms.min_quality <= 0 or 1 - ladder.config.rungs[asked].cautious_loss >= terms.min_quality)
            and self._is_up(ticket.served_model, asked)
        )

    @staticmethod
    def _is_move_costly(ladder: LadderState, rung: int, num_prompt_tokens: int) -> bool:
        """Whether computing the session's prompt again elsewhere would use up half of the promise by itself."""
        if rung >= ladder.num_local:
            return False
        learned = ladder.places[rung].ttft
        return learned.predict(num_prompt_tokens) - learned.predict(0) > 0.5 * ladder.config.ttft_s

    def _try_start(self, ticket: Ticket, ladder: LadderState, choice: RungChoice, now_s: float) -> bool:
        assert choice.rung is not None, "ask whether there is a rung first"
        place = ladder.places[choice.rung]
        has_room = place.device.has_room(place.share, rung=choice.rung)
        if not has_room or not self._keeps_promise(ticket, place, now_s):
            return False
        self._start(ticket, ladder, choice, now_s)
        return True

    @staticmethod
    def _keeps_promise(ticket: Ticket, place: RungPlace, now_s: float) -> bool:
        """Whether a start now would be in time, as far as can be told; True where waiting would not make it better.

        A prediction that is wrong must not lock anybody out: where no prompt is ahead, or nothing is under way, the
        request starts, and what it sees corrects the prediction.
        """
        terms, device = ticket.terms, place.device
        waited_s = now_s - ticket.arrived_s
        is_prompt_in_time = (
            device.tokens_ahead <= 0 or waited_s + place.predicted_ttft_s(terms.num_prompt_tokens) <= terms.ttft_s
        )
        return is_prompt_in_time and (not device.num_in_flight or place.predicted_tpot_s() <= terms.tpot_s)

    def _try_spill(self, ticket: Ticket, ladder: LadderState, now_s: float) -> bool:
        """Whether it was started elsewhere: there is a spill rung, the request allows it and money is left."""
        rung = ladder.num_local
        terms = ticket.terms
        is_asked = ticket.asked_rung == rung
        may_go = is_asked or not (ticket.is_pinned or terms.degrade is Degrade.NEVER)
        if rung >= len(ladder.places) or rung in ticket.avoided or not may_go or not terms.may_leave:
            return False
        place = ladder.places[rung]
        if 1 - place.facts.cautious_loss < terms.min_quality:
            return False
        facts = place.facts
        usd = (
            terms.num_prompt_tokens * facts.usd_per_1m_input_tokens
            + terms.max_output_tokens * facts.usd_per_1m_output_tokens
        ) / 1e6
        is_open = self._is_up(ticket.served_model, rung) and place.device.has_room(place.share)
        if not is_open or not self._spills[ticket.served_model].try_take(usd, now_s):
            return False
        ticket.paid_usd = usd
        self._start(ticket, ladder, RungChoice(rung, RungReason.SPILL), now_s)
        return True

    def _start(self, ticket: Ticket, ladder: LadderState, choice: RungChoice, now_s: float) -> None:
        assert choice.rung is not None, "only a choice with a rung can start"
        place = ladder.places[choice.rung]
        ticket.place, ticket.rung, ticket.reason = place, choice.rung, choice.reason
        ticket.started_s = now_s
        ticket.share = place.share
        ticket.is_trimmed = ladder.is_trimming and ticket.terms.trimmed_output_tokens is not None
        ticket.is_prefill_ahead = ticket.is_streamed
        ticket.num_tokens = ticket.terms.num_prompt_tokens * place.token_weight if ticket.is_streamed else 0.0
        place.device.take(ticket.share, rung=choice.rung, num_tokens=ticket.num_tokens)
        ticket.tokens_ahead = place.device.tokens_ahead
        ticket.num_together = place.device.num_in_flight
        place.num_in_flight += 1
        place.num_started += 1
        if ticket.is_short_of_room:
            place.num_degraded_from[ticket.asked_rung] += 1
        if ladder.budget is not None and ticket.counts_against_budget:
            if not ticket.avoided:
                ladder.budget.note_request(now_s)
            if ticket.rung > ticket.asked_rung and not place.facts.is_spill:
                ticket.paid_loss = place.facts.cautious_loss
                ladder.budget.spend(ticket.paid_loss, now_s)

    def _settle(self, ticket: Ticket, ladder: LadderState, answered: Answered | None, now_s: float) -> None:
        """Gives back what was paid for an answer that did not come."""
        if answered is None and ticket.paid_loss is not None and ladder.budget is not None:
            ladder.budget.give_back(ticket.paid_loss, now_s)
        if ticket.paid_usd:
            facts = ladder.config.rungs[-1]
            used = 0.0
            if answered is not None:
                used = (
                    ticket.terms.num_prompt_tokens * facts.usd_per_1m_input_tokens
                    + answered.num_output_tokens * facts.usd_per_1m_output_tokens
                ) / 1e6
            self._spills[ticket.served_model].give_back(max(0.0, ticket.paid_usd - used))
        ticket.paid_loss, ticket.paid_usd = None, 0.0

    def _queue(self, ticket: Ticket, ladder: LadderState, num_ahead: int, now_s: float) -> Decision:
        room = self._rooms[ladder.home_device]
        left_s = ticket.start_by_s - now_s
        starts_per_s = self._starts[ladder.home_device].per_s(now_s)
        is_hopeless = left_s <= 0
        is_late = starts_per_s > _LEAST_STARTS_PER_S and num_ahead / starts_per_s > left_s
        is_full = room.count >= room.max_queued
        if is_hopeless or is_late or is_full:
            ladder.note_overload(now_s)
            other = None if is_hopeless else room.least_worthy(ticket, is_full=is_full)
            if other is None:
                return self._refuse(ticket, RefusalReason.QUEUE_FULL if is_full else RefusalReason.SATURATED, now_s)
            room.remove(other)
            self._evicted.append(self._refuse(other, RefusalReason.QUEUE_FULL, now_s))
        room.push(ticket)
        return Wait(ticket)

    def _refuse(self, ticket: Ticket, reason: RefusalReason, now_s: float) -> Refuse:
        device = self.ladders[ticket.served_model].home_device
        starts_per_s = self._starts[device].per_s(now_s)
        wait_s = self._rooms[device].count / starts_per_s if starts_per_s > _LEAST_STARTS_PER_S else _LEAST_RETRY_S
        return Refuse(ticket, reason, min(_MOST_RETRY_S, max(_LEAST_RETRY_S, wait_s)))

    @staticmethod
    def _refuse_for_good(ticket: Ticket, choice: RungChoice) -> Refuse:
        may_retry = choice.reason is not RungReason.QUALITY_FLOOR
        return Refuse(ticket, RefusalReason.NO_VARIANT, _LEAST_RETRY_S, may_retry)

    def _update_level(self, ladder: LadderState, now_s: float) -> None:
        oldest_s = self._rooms[ladder.home_device].oldest_arrival_s()
        ladder.update_level(now_s, oldest_wait_s=0.0 if oldest_s is None else now_s - oldest_s)

    def _room_of(self, ticket: Ticket) -> WaitingRoom:
        return self._rooms[self.ladders[ticket.served_model].home_device]


def _kept_promise(answered: Answered, ladder: LadderState) -> bool:
    """Whether the engine did its part: the wait before the start is not its fault."""
    is_quick = answered.tpot_s is None or answered.tpot_s <= ladder.config.tpot_s
    return is_quick and answered.ttft_s <= ladder.config.ttft_s
