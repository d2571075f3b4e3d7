"""One region: a gateway, its fleets, its controller, the clients near by, and the ways to other regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, RungFacts
from lightship.gateway.routing.picking import DeviceLoad
from lightship.ports.engine import Outcome
from lightship.ports.engine_profile import EngineProfile
from lightship.scaling.records import ScalePolicy
from lightship.simulation.attempts import Attempts
from lightship.simulation.controller import Controller
from lightship.simulation.engine.base import EngineModel, Fidelity
from lightship.simulation.engine.exact import ExactEngine
from lightship.simulation.engine.skipping import SkippingEngine
from lightship.simulation.events import EventQueue
from lightship.simulation.gateway import MODEL, Gateway
from lightship.simulation.recording import Bins, DecisionList, Recorder
from lightship.simulation.replicas import Fleet, FleetSpec, RungEngine, rates_of
from lightship.simulation.requests import Request
from lightship.simulation.scenario import Placement, RegionSpec, RungSpec, Scenario
from lightship.simulation.statistics import LevelSeries
from lightship.simulation.traffic.stream import Arrival

# Of the most that a replica serves within the promise; see `ScalePolicy.in_flight_per_replica`.
IN_FLIGHT_SHARE = 0.65
_ANSWERED = frozenset({Outcome.SERVED, Outcome.DEGRADED})

Regions = Mapping[str, "Region"]


class Region:
    """See the module.

    Args:
        name: Of it.
        scenario: With measured rungs: `concurrency` and `goodput_requests_per_s` are there.
        profiles: Of the rungs' engines, in their order.
        events: Time.
        bins: How time is cut.
        decisions: Where decisions are noted.
        regions: All of them; filled in before time begins.
    """

    def __init__(
        self,
        name: str,
        scenario: Scenario,
        profiles: Sequence[EngineProfile],
        *,
        events: EventQueue,
        bins: Bins,
        decisions: DecisionList,
        regions: Regions,
    ) -> None:
        self.name = name
        self.spec: RegionSpec = scenario.regions[name]
        self._scenario = scenario
        self._events = events
        self._regions = regions
        self.is_away = False
        self.recorder = Recorder(scenario, client_rtt_s=self.spec.client_rtt_s, bins=bins)
        self.num_forwarded = 0
        spill = self.spec.spill_to
        self.attempts = Attempts(
            scenario,
            events,
            forward=None if spill is None else self._forward,
            cancel_child=self._cancel_child,
            is_spill_up=lambda: spill is None or not regions[spill.to].is_away,
        )
        self.gateway = Gateway(
            name,
            dispatch_config(scenario, self.spec),
            admission=scenario.admission,
            events=events,
            recorder=self.recorder,
            backend=self.attempts,
            decisions=decisions,
        )
        self.attempts.gateway = self.gateway
        self.fleets = self._made_fleets(profiles, bins.levels)
        served: dict[Fleet, list[int]] = {}
        for fleet in self.fleets:
            served[fleet] = [engine.rung for engine in fleet.spec.engines]
        self.controller = Controller(name, served, gateway=self.gateway, attempts=self.attempts, decisions=decisions)

    @property
    def num_under_way(self) -> int:
        """Requests in its gateway's hands; 0 when all have ended."""
        dispatcher = self.gateway.dispatcher
        return dispatcher.num_in_flight + dispatcher.num_waiting + sum(self.gateway.num_held_by_rung().values())

    def arrive(
        self, arrival: Arrival, now_s: float, *, is_counted: bool, recorder: Recorder, extra_rtt_s: float
    ) -> None:
        """A client's request has come; it is counted by the region whose client it is."""
        tally = recorder.tally(arrival.kind)
        request = Request(arrival, tally, is_counted=is_counted, extra_rtt_s=extra_rtt_s)
        self.recorder.arrived(request)
        self.gateway.arrive(request, now_s)

    def refuse(self, arrival: Arrival, now_s: float, *, is_counted: bool) -> None:
        """A client's request finds nobody: its region is away, and the client does not know yet."""
        request = Request(arrival, self.recorder.tally(arrival.kind), is_counted=is_counted)
        self.recorder.arrived(request)
        self.recorder.ended(request, Outcome.FAILED, "failed: region away", now_s)

    def go_away(self, now_s: float) -> None:
        """Effects: everything it had is lost."""
        self.is_away = self.attempts.is_away = True
        for fleet in self.fleets:
            fleet.lose_all(now_s)
        self.gateway.lose_all(now_s)
        self.attempts.elsewhere.clear()
        self.gateway.start_anew()

    def come_back(self, now_s: float) -> None:
        """Effects: its machines start anew, as many as were wanted when it went away."""
        self.is_away = self.attempts.is_away = False
        for fleet in self.fleets:
            fleet.set_target(fleet.history.replicas, now_s)

    # Other regions

    def receive(self, now_s: float, child: Request) -> None:
        """A request that another region sent has come."""
        if child.is_over:
            return
        if self.is_away:
            self.recorder.ended(child, Outcome.FAILED, "", now_s)
            return
        self.gateway.arrive(child, now_s, may_leave=False)

    def _forward(self, request: Request, now_s: float) -> None:
        spill = self.spec.spill_to
        assert spill is not None
        self.num_forwarded += 1
        target = self._regions[spill.to]
        one_way_s = self._scenario.rtt_between(self.name, spill.to) / 2
        child = Request(request.arrival, request.tally, is_counted=False)
        child.origin, request.child = request, child
        child.on_first = lambda _, at_s: self._events.plan(at_s + one_way_s, self.attempts.spill_first, request)
        child.on_end = lambda one, outcome, at_s: self._child_ended(one, outcome, at_s + one_way_s)
        self._events.plan(now_s + one_way_s, target.receive, child)

    def _child_ended(self, child: Request, outcome: Outcome, at_s: float) -> None:
        request = child.origin
        assert request is not None
        if outcome in _ANSWERED:
            assert child.ticket is not None
            request.spilled_loss = self._scenario.ladder[child.ticket.rung].quality_loss
            request.num_tokens = child.num_tokens
            self._events.plan(at_s, self.attempts.spill_finished, request)
        elif outcome is not Outcome.CANCELLED:
            self._events.plan(at_s, self._spill_failed, request)

    def _spill_failed(self, now_s: float, request: Request) -> None:
        if request.is_over:
            return
        self.attempts.elsewhere.pop(request, None)
        if request.first_s is None:
            self.gateway.failed_on_rung(request, now_s)
        else:
            self.gateway.broken(request, now_s, "broke elsewhere")

    def _cancel_child(self, child: Request) -> None:
        spill = self.spec.spill_to
        assert spill is not None
        if child.ticket is None:
            child.is_over = True  # on its way
        else:
            self._regions[spill.to].gateway.cancel(child, self._events.now_s)

    # Machines

    def _made_fleets(self, profiles: Sequence[EngineProfile], levels: Callable[[], LevelSeries]) -> list[Fleet]:
        scenario = self._scenario
        make: type[SkippingEngine] | type[ExactEngine]
        make = SkippingEngine if scenario.fidelity is Fidelity.FAST else ExactEngine
        engines = [self._engine(rung, profile, make) for rung, profile in enumerate(profiles)]
        if scenario.placement is Placement.SHARED:
            groups = [
                (f"{self.name}/machines", engines, scenario.ladder[0], sum(r.weight_bytes for r in scenario.ladder))
            ]
        else:
            groups = [
                (f"{self.name}/{rung.name}", [engine], rung, rung.weight_bytes)
                for engine, rung in zip(engines, scenario.ladder, strict=True)
            ]
        # the gateway of one machine takes all of its replicas for one device
        device = DeviceLoad() if scenario.placement is Placement.SHARED else None
        fleets: list[Fleet] = []
        self.attempts.fleets = fleets  # asked for as soon as the first machine is ready
        made = []
        for name, group, rung, weight_bytes in groups:
            spec = fleet_spec(
                scenario, self.spec, name=name, engines=tuple(group), rung=rung, weight_bytes=weight_bytes
            )
            fleet = Fleet(spec, self._events, levels=levels, device=device)
            fleets += [fleet] * len(group)
            made.append(fleet)
        for fleet in made:
            fleet.begin(on_ready=self.attempts.machine_ready, on_gone=self.attempts.machine_gone)
        return made

    def _engine(self, rung: int, profile: EngineProfile, make: Callable[[EngineProfile], EngineModel]) -> RungEngine:
        concurrency = self._scenario.ladder[rung].concurrency or 1
        kinds = self.spec.traffic.kinds
        context = sum(one.share * one.prompt_tokens.mean for one in kinds) / sum(one.share for one in kinds)
        return RungEngine(rung, profile, make, rates_of(profile, concurrency=concurrency, context=context))


def fleet_spec(
    scenario: Scenario,
    region: RegionSpec,
    *,
    name: str,
    engines: tuple[RungEngine, ...],
    rung: RungSpec,
    weight_bytes: int,
) -> FleetSpec:
    """What the machines of one rung, or shared ones, are like in one region."""
    scaling = rung.scaling

    def in_region(number: int) -> int:
        return math.ceil(number * region.replica_factor - 1e-9)

    usd_per_hour = rung.usd_per_replica_hour * region.price_factor
    delivery_s = weight_bytes / scenario.weight_bytes_per_s
    top, lowest = scenario.ladder[0], scenario.ladder[-1]
    each = scaling.in_flight_per_replica or max(1.0, IN_FLIGHT_SHARE * (top.concurrency or 1))
    speedup = (lowest.goodput_requests_per_s or 1.0) / (rung.goodput_requests_per_s or 1.0)
    policy = ScalePolicy(
        min_replicas=in_region(scaling.min_replicas),
        max_replicas=in_region(scaling.max_replicas),
        in_flight_per_replica=each,
        in_flight_at_lowest_rung=each * speedup if speedup > 1 else None,
        prefer=scenario.prefer,
        idle_after_s=scaling.idle_after_s,
        scale_down_window_s=scaling.scale_down_window_s,
        scale_down_period_s=scaling.scale_down_period_s,
        startup_s=scaling.startup_s + delivery_s,
        attainment=scenario.slo.attainment,
        usd_per_replica_hour=usd_per_hour or None,
        max_usd_per_hour=scaling.max_usd_per_hour,
    )
    return FleetSpec(
        name=name,
        engines=engines,
        policy=policy,
        initial_machines=in_region(scaling.initial_replicas),
        startup_s=scaling.startup_s,
        startup_spread=scaling.startup_spread,
        delivery_s=delivery_s,
        usd_per_hour=usd_per_hour,
        crashes_per_day=scenario.failures.crashes_per_replica_day,
        seed=str(scenario.seed),
    )


def dispatch_config(scenario: Scenario, region: RegionSpec) -> DispatchConfig:
    """The gateway's own configuration for this scenario in one region."""
    is_shared = scenario.placement is Placement.SHARED
    facts = [
        RungFacts(
            variant_name=rung.name,
            device="local" if is_shared else f"rung-{position}",
            quality_loss=rung.quality_loss,
            quality_loss_high=rung.quality_loss_high,
            goodput_requests_per_s=rung.goodput_requests_per_s or 0.0,
            concurrency=rung.concurrency or 0,
        )
        for position, rung in enumerate(scenario.ladder)
    ]
    spill, upstream, usd_per_hour = region.spill_to, scenario.upstream, 0.0
    if spill is not None:
        facts.append(
            RungFacts(
                variant_name=spill.to,
                device="elsewhere",
                is_spill=True,
                usd_per_1m_input_tokens=spill.usd_per_1m_input_tokens,
                usd_per_1m_output_tokens=spill.usd_per_1m_output_tokens,
            )
        )
        usd_per_hour = spill.max_usd_per_hour
    elif upstream is not None:
        facts.append(
            RungFacts(
                variant_name="upstream",
                device="elsewhere",
                quality_loss=upstream.quality_loss,
                is_spill=True,
                usd_per_1m_input_tokens=upstream.usd_per_1m_input_tokens,
                usd_per_1m_output_tokens=upstream.usd_per_1m_output_tokens,
            )
        )
        usd_per_hour = upstream.max_usd_per_hour
    ladder = LadderConfig(
        rungs=tuple(facts),
        ttft_s=scenario.slo.ttft_s,
        tpot_s=scenario.slo.tpot_s,
        attainment=scenario.slo.attainment,
        policy=scenario.policy,
        budget=scenario.quality_budget,
        spill_usd_per_hour=usd_per_hour,
    )
    admission = scenario.admission
    return DispatchConfig(
        ladders={MODEL: ladder},
        priorities=scenario.priorities,
        max_queued=admission.max_queued,
        max_concurrency=admission.max_concurrency,
        default_output_tokens=admission.default_output_tokens,
    )
