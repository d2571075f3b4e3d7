"""The replicas of a gateway: places attempts, counts what is in flight, and keeps away from those that do badly.

    place --> first byte --> end          every attempt, on every path; `balancing` sees to it
    probe, read metrics, judge            in the background (`watching`)
    apply                                 another configuration: who stays keeps state and requests

All choices are made by pure functions (`picking`, `breaker`, `outliers`, `health`); here they get the time and are
acted on.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from lightship.gateway.config import ReplicaConfig
from lightship.gateway.routing.breaker import Ticket, Verdict
from lightship.gateway.routing.config import DEFAULT_ROUTING, RoutingConfig
from lightship.gateway.routing.failures import CONNECT_FAILURES
from lightship.gateway.routing.health import PROBES_WITHOUT_ANSWER, Health, health_after_failed_connect
from lightship.gateway.routing.load import AttemptWork, OutputLengths
from lightship.gateway.routing.outliers import EjectionReason
from lightship.gateway.routing.picking import ChoiceReason, DeviceLoad, ReplicaState, RequestFacts, pick_replica
from lightship.gateway.routing.prefixes import PrefixIndex, prompt_of
from lightship.gateway.routing.recent import RecentValues
from lightship.gateway.routing.replica import Replica
from lightship.gateway.routing.sessions import SessionTable, session_key
from lightship.gateway.routing.watching import Watch
from lightship.ports.clock import Clock
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, EngineReply
from lightship.ports.replica_control import ReplicaPhase
from lightship.wire.errors import overloaded
from lightship.wire.paths import API_PATHS

# Where nobody estimated a prompt's tokens.
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class RungLoad:
    """How one rung stands. `least_work_s` is that of its least loaded usable replica, infinite where none is usable."""

    num_replicas: int
    num_ready: int
    num_usable: int
    num_in_flight: int
    least_work_s: float


@dataclass(slots=True, eq=False)
class Placement:
    """One attempt that was given to a replica, until `ReplicaPool.end`. `wait` is what its first byte is awaited in."""

    replica: Replica
    reason: ChoiceReason
    call: EngineCall
    served_model: str
    started_s: float
    num_uncached_tokens: float
    ticket: Ticket
    work: AttemptWork
    wait: asyncio.Timeout | None = None


class RoutingCounts:
    """Totals since the start, for metrics."""

    def __init__(self) -> None:
        self.picks: Counter[ChoiceReason] = Counter()
        self.ejections: Counter[tuple[str, EjectionReason]] = Counter()
        self.hedges: Counter[str] = Counter()
        self.num_blocks = 0
        self.num_known_blocks = 0


class ReplicaPool:
    """Owns every replica's state; nobody else changes it.

    Args:
        replicas: Those there are at first; see `apply`.
        clock: Time.
        interval_s: Between two probes of a replica.
        routing: How requests are shared.
        served_model: The name clients send for replicas that name no other one.
        num_processes: Gateway processes that share the replicas: each may use its part of a replica's concurrency.
        draw: Random numbers in [0, 1), for pauses of breakers.
        secret: Keys the prefix index; drawn where none is given.

    Concurrency: one event loop.
    """

    def __init__(
        self,
        replicas: Iterable[Replica],
        *,
        clock: Clock,
        interval_s: float,
        routing: RoutingConfig = DEFAULT_ROUTING,
        served_model: str = "",
        num_processes: int = 1,
        draw: Callable[[], float] = random.random,
        secret: bytes = b"",
    ) -> None:
        self.routing = routing
        self.clock = clock
        self.counts = RoutingCounts()
        self.sessions = SessionTable(routing.session_capacity)
        self.states: list[ReplicaState] = []
        self.on_readiness: Callable[[], None] = lambda: None
        """Called whenever a replica became ready, or is not any more."""
        self._served_model = served_model
        self._num_processes = num_processes
        self._draw = draw
        self._secret = secret or os.urandom(32)
        self._prefixes = self._new_index()
        self._lengths = OutputLengths(routing.output_quantile)
        self._first_bytes: dict[tuple[str, str, int, bool], RecentValues] = {}
        self._replicas: dict[str, Replica] = {}
        self._placements: dict[Replica, set[Placement]] = {}
        self._devices: dict[str, DeviceLoad] = {}
        self._rungs: dict[tuple[str, int], list[ReplicaState]] = {}
        self._salts: dict[tuple[str, int], str] = {}
        self._num_starts = 0
        self._watch = Watch(self, interval_s=interval_s)
        for replica in replicas:
            self._take_in(replica, replica.config)
        self._note_replicas_changed()

    def __getitem__(self, name: str) -> Replica:
        return self._replicas[name]

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def has_ready(self) -> bool:
        """Whether any replica is ready."""
        return any(state.is_ready for state in self.states)

    def is_up(self, served_model: str, rung: int) -> bool:
        """Whether a rung of a model has a replica that takes requests; breakers and ejections never take the last."""
        return any(state.is_ready for state in self._rungs.get((served_model or self._served_model, rung), ()))

    def rung_load(self, rung: int, *, served_model: str = "") -> RungLoad:
        """How a rung of a model's ladder stands."""
        model, now_s = served_model or self._served_model, self.clock.monotonic_s()
        states = self._rungs.get((model, rung), ())
        ready = [state for state in states if state.is_ready]
        usable = [s for s in ready if s.blocked_until_s <= now_s and s.num_in_flight < s.max_in_flight]
        return RungLoad(
            num_replicas=len(states),
            num_ready=len(ready),
            num_usable=len(usable),
            num_in_flight=sum(state.num_in_flight for state in states),
            least_work_s=min((state.work_s for state in usable), default=float("inf")),
        )

    def place(self, call: EngineCall) -> Placement:
        """Gives one attempt to a replica, and counts it there until `end`.

        Raises: AttemptError: NO_REPLICA when none is left to try.
        """
        routing, terms, now_s = self.routing, call.terms, self.clock.monotonic_s()
        model = call.served_model or self._served_model
        tools, prompt = prompt_of(call.body, call.path)
        tenant = "" if routing.shares_prefixes else terms.tenant
        salt = self._salts.get((model, call.rung), model)
        keys = self._prefixes.keys_of(prompt, model=salt, tenant=tenant, tools=tools)
        known = self._prefixes.known_blocks(keys)
        session = session_key(terms)
        facts = RequestFacts(
            rung=call.rung,
            served_model=model,
            now_s=now_s,
            excluded=call.excluded,
            session_replica=self.sessions.replica_of(session, rung=call.rung, served_model=model) if session else "",
            known_blocks=known,
            num_blocks=len(keys),
        )
        choice = pick_replica(self._rungs.get((model, call.rung), ()), facts, routing)
        self.counts.picks[choice.reason] += 1
        if choice.replica is None:
            raise _no_replica(call, choice.reason)
        replica = self._replicas[choice.replica.name]
        num_known = known.get(choice.replica.name, 0)
        self.counts.num_blocks += len(keys)
        self.counts.num_known_blocks += num_known
        self._prefixes.remember(keys, choice.replica.name)
        num_tokens: float = terms.num_prompt_tokens or len(prompt) // _BYTES_PER_TOKEN
        if num_known:
            num_tokens *= 1 - num_known * self._prefixes.block_bytes / len(prompt)
        self._num_starts += 1
        choice.replica.last_start = self._num_starts
        placement = Placement(
            replica=replica,
            reason=choice.reason,
            call=call,
            served_model=model,
            started_s=now_s,
            num_uncached_tokens=num_tokens,
            ticket=replica.breaker.begin(now_s=now_s),
            work=replica.ledger.add(
                num_uncached_tokens=num_tokens, num_expected_tokens=self._expected_output(call, model)
            ),
        )
        self._refresh_block(replica)
        self._placements.setdefault(replica, set()).add(placement)
        return placement

    def note_first_byte(self, placement: Placement, reply: EngineReply) -> None:
        """The attempt has an answer: the prompt is done, the replica is reached."""
        replica, call = placement.replica, placement.call
        replica.ledger.note_first_byte(placement.work, reply.usage)
        self.note_connected(replica)
        if reply.status >= 300:
            return
        after_s = self.clock.monotonic_s() - placement.started_s
        if call.is_streaming:
            replica.tally.note_first_token(after_s=after_s, num_uncached_tokens=placement.num_uncached_tokens)
        self._recent_first_bytes(call, placement.served_model).add(after_s)
        replica.breaker.first_byte(placement.ticket)
        self._refresh_block(replica)
        session = session_key(call.terms)
        if session is not None:
            self.sessions.remember(session, call.rung, replica.config.name, served_model=placement.served_model)

    def end(self, placement: Placement, verdict: Verdict) -> None:
        """The attempt is over; exactly once for each, on every path."""
        replica, work = placement.replica, placement.work
        at_replica = self._placements[replica]
        at_replica.remove(placement)
        if not at_replica:
            del self._placements[replica]
        replica.ledger.remove(work)
        now_s = self.clock.monotonic_s()
        replica.breaker.end(placement.ticket, verdict, now_s=now_s, jitter=self._draw())
        self._refresh_block(replica)
        if verdict is not Verdict.NEITHER:
            replica.tally.note_end(is_failed=verdict is Verdict.BAD)
        if verdict is Verdict.GOOD and work.usage is not None and work.usage.num_output_tokens:
            call = placement.call
            self._lengths.note(
                call.path,
                served_model=placement.served_model,
                rung=call.rung,
                num_tokens=work.usage.num_output_tokens,
            )

    def note_failed_attempt(self, placement: Placement, error: AttemptError) -> None:
        """The attempt gave no first byte: what that says about reaching the replica."""
        replica = placement.replica
        if error.failure in CONNECT_FAILURES:
            self.set_health(replica, health_after_failed_connect(replica.health), has_lost_cache=True)
        else:
            self.note_connected(replica)

    def note_connected(self, replica: Replica) -> None:
        """An attempt reached the replica: failed connects no longer count as in a row."""
        if replica.health.num_failed_connects:
            replica.health = replace(replica.health, num_failed_connects=0)

    def usual_first_byte_s(self, call: EngineCall) -> float | None:
        """The quantile of recent times to first byte beyond which an attempt is late; None before enough are known."""
        recent = self._recent_first_bytes(call, call.served_model or self._served_model)
        return recent.quantile(at_least=50)

    def set_health(self, replica: Replica, health: Health, *, has_lost_cache: bool = False) -> None:
        """Effects: the replica is ready or not from now on; one that is gone has lost what it knew, and where one is
        silent, whoever waits for its first byte waits no longer.
        """
        was_ready = replica.health.is_ready
        if replica.is_withdrawn:
            health = replace(health, is_ready=False)
        replica.health = health
        replica.state.is_ready = health.is_ready
        if was_ready and not health.is_ready and has_lost_cache:
            self._prefixes.forget(replica.config.name)
        if health.is_ready and not was_ready:
            replica.breaker.shorten_pause()
            self._refresh_block(replica)
        if health.is_ready != was_ready:
            self.on_readiness()
        if health.num_unanswered >= PROBES_WITHOUT_ANSWER:
            self._give_up_waiting(replica)

    def note_phase(self, name: str, phase: ReplicaPhase) -> None:
        """Whoever runs a replica says where it stands: one that drains gets nothing new from this moment on, and one
        that is ready has been seen to answer, so nobody waits for the next probe.
        """
        replica = self._replicas.get(name)
        if replica is None:
            return
        was_withdrawn, replica.is_withdrawn = replica.is_withdrawn, phase is not ReplicaPhase.READY
        if replica.is_withdrawn:
            keeps_cache = phase is ReplicaPhase.DRAINING
            self.set_health(replica, Health(is_ready=False), has_lost_cache=not keeps_cache)
        elif was_withdrawn or not replica.health.is_ready:
            self.set_health(replica, Health(is_ready=True))

    def _give_up_waiting(self, replica: Replica) -> None:
        """Effects: attempts that have no answer yet fail, where there is another replica to try them at.

        A whole answer may take as long as a request may take in all: without this, one at a replica that hangs would be
        lost although others are well.
        """
        for placement in self._placements.get(replica, ()):
            call = placement.call
            others = self._rungs.get((placement.served_model, call.rung), ())
            if placement.wait is not None and any(
                one.is_ready and one is not replica.state and one.name not in call.excluded for one in others
            ):
                placement.wait.reschedule(asyncio.get_running_loop().time())
                placement.wait = None  # once is enough

    def eject(self, replica: Replica, reason: EjectionReason, *, now_s: float) -> None:
        """Effects: takes the replica out for a while, longer each time in a row."""
        config = self.routing.outliers
        replica.num_ejections_in_a_row += 1
        duration_s = min(config.ejection_s * replica.num_ejections_in_a_row, config.longest_ejection_s)
        replica.ejected_until_s = now_s + duration_s
        self.counts.ejections[replica.config.name, reason] += 1
        self._refresh_block(replica)

    async def probe_all(self) -> None:
        """Effects: brings the readiness of every replica up to date."""
        await self._watch.probe(iter(self))

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Probes every replica once before the block runs, then in the background until it ends."""
        return self._watch.running()

    async def apply(
        self,
        replicas: Iterable[Replica],
        *,
        interval_s: float,
        routing: RoutingConfig | None = None,
        served_model: str | None = None,
    ) -> None:
        """Effects: from now on these are the replicas, without an effect on requests under way.

        One that reaches the same engine as before keeps all that is known of it, and gets the new way to reach it. One
        that is gone, or has another address, finishes what it has. New ones are probed first; then everything changes
        in one step.

        Args:
            replicas: All of them.
            interval_s: Between two probes.
            routing: How requests are shared; as before where it is not given.
            served_model: See the class; as before where it is not given.
        """
        wanted = list(replicas)
        stays = {replica.config.name for replica in wanted if self._known(replica) is not None}
        await self._watch.probe(replica for replica in wanted if replica.config.name not in stays)
        self.routing = routing or self.routing
        self._served_model = self._served_model if served_model is None else served_model
        before, self._replicas = self._replicas, {}
        for replica in wanted:
            known = before.get(replica.config.name) if replica.config.name in stays else None
            if known is not None:
                known.engine, known.metrics = replica.engine, replica.metrics
            self._take_in(known or replica, replica.config)
        for replica in before.values():
            if self._replicas.get(replica.config.name) is not replica:
                replica.state.is_ready = False
                self._prefixes.forget(replica.config.name)
        self._note_replicas_changed()
        self.sessions.apply(self.routing.session_capacity)
        self._prefixes = self._kept_index()
        self._watch.follow(interval_s=interval_s)
        self.on_readiness()  # those that were probed before count only now

    def _known(self, replica: Replica) -> Replica | None:
        """The replica there is already that reaches the same engine, or None."""
        known = self._replicas.get(replica.config.name)
        return known if known is not None and known.is_same_process(replica.config) else None

    def _take_in(self, replica: Replica, config: ReplicaConfig) -> None:
        self._replicas[config.name] = replica
        device = self._devices.setdefault(config.device, DeviceLoad()) if config.device else None
        if device is None:
            mine = replica.state.device
            device = DeviceLoad() if mine in self._devices.values() else mine
        replica.apply(
            config,
            self.routing,
            served_model=config.served_model or self._served_model,
            device=device,
            num_processes=self._num_processes,
        )

    def _note_replicas_changed(self) -> None:
        replicas = self._replicas.values()
        self.states = [replica.state for replica in replicas]
        self._rungs = {}
        for state in self.states:
            self._rungs.setdefault((state.served_model, state.rung), []).append(state)
        self._salts = {
            (state.served_model, state.rung): f"{state.served_model}\n{replica.config.variant_digest}"
            for replica in replicas
            for state in [replica.state]
        }
        self._lengths.keep(self._rungs)
        self._first_bytes = {key: recent for key, recent in self._first_bytes.items() if key[1:3] in self._rungs}
        for key in [key for key in self.counts.ejections if key[0] not in self._replicas]:
            del self.counts.ejections[key]
        named = {replica.config.device for replica in replicas}
        self._devices = {name: device for name, device in self._devices.items() if name in named}

    def _new_index(self) -> PrefixIndex:
        routing = self.routing
        return PrefixIndex(
            capacity=routing.prefix_capacity,
            block_bytes=routing.prefix_block_bytes,
            max_blocks=routing.max_prefix_blocks,
            secret=self._secret,
        )

    def _kept_index(self) -> PrefixIndex:
        """The index that goes with the configuration: the one there is, unless the sizes have changed."""
        new = self._new_index()
        return self._prefixes if new.sizes == self._prefixes.sizes else new

    def _expected_output(self, call: EngineCall, model: str) -> int:
        path = API_PATHS.get(call.path)
        if path is not None and not path.generates:
            return 0
        return self._lengths.expected(call.path, served_model=model, rung=call.rung, most=call.terms.max_output_tokens)

    def _recent_first_bytes(self, call: EngineCall, model: str) -> RecentValues:
        key = (call.path, model, call.rung, call.is_streaming)
        recent = self._first_bytes.get(key)
        if recent is None:
            recent = self._first_bytes[key] = RecentValues(self.routing.hedge_quantile)
        return recent

    @staticmethod
    def _refresh_block(replica: Replica) -> None:
        replica.state.blocked_until_s = max(replica.breaker.blocked_until_s, replica.ejected_until_s)


def _no_replica(call: EngineCall, reason: ChoiceReason) -> AttemptError:
    error = AttemptError(AttemptFailure.NO_REPLICA, f"no replica for rung {call.rung}: {reason}")
    if reason is ChoiceReason.ALL_FULL:
        error.api_error = overloaded("Every engine of this model is full. Try again.", reason="saturated")
    return error
