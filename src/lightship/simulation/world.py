"""A whole service in virtual time: regions, their clients, outages, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lightship.ports.engine import Outcome
from lightship.ports.engine_profile import EngineProfile
from lightship.ports.replica_control import ReplicaPhase
from lightship.simulation.events import EventQueue
from lightship.simulation.measuring import with_measured_rungs
from lightship.simulation.profiles import resolve_profile
from lightship.simulation.recording import Bins, DecisionList, bins_of
from lightship.simulation.region import Region
from lightship.simulation.replicas import Fleet
from lightship.simulation.result import FleetSummary, RegionSummary, RungFigures, SimulationResult, Summary
from lightship.simulation.scenario import Outage, Scenario, SlowReplicas
from lightship.simulation.statistics import LogHistogram, Tally, together
from lightship.simulation.traffic.stream import Arrival, stream_of

_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


def simulate_service(scenario: Scenario, *, folder: Path, alternative: str = "") -> SimulationResult:
    """What would become of the service.

    Args:
        scenario: Checked; see `reading.scenario_of`.
        folder: That files which it names are relative to.
        alternative: What is different here from the scenario of the file; for the report.

    Raises: LightshipError: a profile or a trace that cannot be read.
    Effects: may read profiles and traces.
    """
    profiles = [resolve_profile(rung.profile, name=rung.name, folder=folder) for rung in scenario.ladder]
    measured, notes = with_measured_rungs(scenario, profiles)
    world = World(measured, profiles, folder=folder)
    world.run()
    return world.result(alternative=alternative, notes=notes)


class World:
    """The regions and their time; `run` once, then ask for the `result`.

    Args:
        scenario: With measured rungs.
        profiles: Of the rungs, in their order.
        folder: That traces are relative to.
    """

    def __init__(self, scenario: Scenario, profiles: Sequence[EngineProfile], *, folder: Path) -> None:
        self.scenario = scenario
        self._profiles = profiles
        self.events = EventQueue()
        self._bins: Bins = bins_of(scenario.duration_s)
        self.decisions = DecisionList()
        self.regions: dict[str, Region] = {}
        self._gone_until_s: dict[str, float] = {}
        self._streams = {
            name: stream_of(
                region.traffic, duration_s=scenario.duration_s, seed=f"{scenario.seed}/{name}", folder=folder
            )
            for name, region in scenario.regions.items()
        }
        for name in scenario.regions:
            self.regions[name] = Region(
                name,
                scenario,
                profiles,
                events=self.events,
                bins=self._bins,
                decisions=self.decisions,
                regions=self.regions,
            )
        self._num_streams = len(self._streams)
        self._warmup_usd = 0.0

    def run(self) -> None:
        """Lets all requests come and end."""
        scenario, events = self.scenario, self.events
        for name, stream in self._streams.items():
            self._plan_next(self.regions[name], stream)
        if scenario.warmup_s:
            events.plan(scenario.warmup_s, self._end_warm_up)
        events.plan(0.0, self._look)
        if math.isfinite(scenario.routing.outliers.interval_s):
            events.plan(scenario.routing.outliers.interval_s, self._judge)
        for outage in scenario.failures.outages:
            events.plan(outage.at_s, self._begin_outage, outage)
        for slow in scenario.failures.slow_replicas:
            events.plan(slow.at_s, self._slow_down, slow)
        events.run(self._is_over)

    def _is_over(self) -> bool:
        is_late = self.events.now_s >= self.scenario.duration_s
        return is_late and not self._num_streams and not any(one.recorder.num_open for one in self.regions.values())

    # What happens

    def _plan_next(self, region: Region, stream: Iterator[Arrival]) -> None:
        arrival = next(stream, None)
        if arrival is None:
            self._num_streams -= 1
        else:
            self.events.plan(arrival.at_s, self._arrive, (region, stream, arrival))

    def _arrive(self, now_s: float, coming: tuple[Region, Iterator[Arrival], Arrival]) -> None:
        region, stream, arrival = coming
        self._plan_next(region, stream)
        is_counted = arrival.at_s >= self.scenario.warmup_s
        serving = region if region.name not in self._gone_until_s else self._serving_for(region, now_s)
        if serving is None:
            region.refuse(arrival, now_s, is_counted=is_counted)
            return
        extra_s = self.scenario.rtt_between(region.name, serving.name)
        serving.arrive(arrival, now_s, is_counted=is_counted, recorder=region.recorder, extra_rtt_s=extra_s)

    def _serving_for(self, region: Region, now_s: float) -> Region | None:
        """Where the clients of a region that is away, or was until now, send their requests; None: to nobody."""
        outage = next(
            (one for one in self.scenario.failures.outages
             if one.region == region.name and one.at_s <= now_s < one.at_s + one.duration_s + one.failover_s),
            None,
        )  # fmt: skip
        if outage is None:
            return region
        if now_s < outage.at_s + outage.failover_s:
            return region if not region.is_away else None
        others = [one for one in self.regions.values() if one is not region and not one.is_away]
        if not others:
            return region if not region.is_away else None
        return min(others, key=lambda one: (self.scenario.rtt_between(region.name, one.name), one.name))

    def _end_warm_up(self, now_s: float, argument: object) -> None:
        """Effects: notes what was paid until now, for answers that are not counted."""
        del argument
        for region in self.regions.values():
            replicas_usd = math.fsum(fleet.paid_machine_s(now_s) * fleet.usd_per_s for fleet in region.fleets)
            self._warmup_usd += replicas_usd + region.attempts.upstream_usd

    def _look(self, now_s: float, argument: object) -> None:
        del argument
        for region in self.regions.values():
            if not region.is_away:
                region.controller.look(now_s)
        self.events.plan(now_s + self.scenario.scale_interval_s, self._look)

    def _judge(self, now_s: float, argument: object) -> None:
        del argument
        for region in self.regions.values():
            region.attempts.judge(now_s)
        self.events.plan(now_s + self.scenario.routing.outliers.interval_s, self._judge)

    def _begin_outage(self, now_s: float, outage: Outage) -> None:
        region = self.regions[outage.region]
        self._gone_until_s[outage.region] = outage.at_s + outage.duration_s + outage.failover_s
        if not region.is_away:
            region.go_away(now_s)
        self.events.plan(now_s + outage.duration_s, self._end_outage, outage)

    def _end_outage(self, now_s: float, outage: Outage) -> None:
        region = self.regions[outage.region]
        still = any(
            one is not outage and one.region == outage.region and one.at_s <= now_s < one.at_s + one.duration_s
            for one in self.scenario.failures.outages
        )
        if region.is_away and not still:
            region.come_back(now_s)

    def _slow_down(self, now_s: float, slow: SlowReplicas) -> None:
        region = self.regions[slow.region]
        fleet = region.attempts.fleets[slow.rung]
        ready = [one for one in fleet.machines.values() if one.phase is ReplicaPhase.READY]
        for machine in ready[: slow.num_replicas]:
            region.attempts.set_slow(machine, slow.factor, now_s)
            if slow.duration_s is not None:
                self.events.plan(
                    now_s + slow.duration_s,
                    lambda at_s, one: region.attempts.set_slow(one, 1.0, at_s),
                    machine,
                )

    # What came of it

    def result(self, *, alternative: str, notes: Sequence[str]) -> SimulationResult:
        """All of it, once time is over."""
        scenario = self.scenario
        counted_s = scenario.duration_s - scenario.warmup_s
        tallies = {name: region.recorder.tallies for name, region in self.regions.items()}
        every = [pair for pairs in tallies.values() for pair in pairs]
        fleets = [self._fleet_summary(region, fleet) for region in self.regions.values() for fleet in region.fleets]
        total = together(tally for _, tally in every)
        usd_replicas = math.fsum(one.usd for one in fleets)
        usd_upstream = math.fsum(region.attempts.upstream_usd for region in self.regions.values())
        usd = usd_replicas + usd_upstream
        counted_usd = usd - self._warmup_usd
        by_priority = _grouped((kind.priority, tally) for kind, tally in every)
        by_tenant = _grouped((kind.tenant, tally) for kind, tally in every if kind.tenant)
        return SimulationResult(
            name=scenario.name,
            alternative=alternative,
            seed=scenario.seed,
            fidelity=scenario.fidelity.value,
            placement=scenario.placement.value,
            duration_s=scenario.duration_s,
            warmup_s=scenario.warmup_s,
            bin_s=self._bins.bin_s,
            slo={"ttft_s": scenario.slo.ttft_s, "tpot_s": scenario.slo.tpot_s, "attainment": scenario.slo.attainment},
            ladder=self._rungs(),
            notes=list(notes),
            total=_summary(total, counted_s),
            by_priority={name: _summary(tally, counted_s) for name, tally in by_priority.items()},
            by_tenant={name: _summary(tally, counted_s) for name, tally in by_tenant.items()},
            regions=[
                self._region_summary(region, together(tally for _, tally in tallies[name]), counted_s)
                for name, region in self.regions.items()
            ],
            fleets=fleets,
            usd_replicas=usd_replicas,
            usd_upstream=usd_upstream,
            usd=usd,
            usd_per_1m_good_tokens=1e6 * counted_usd / total.num_good_tokens if total.num_good_tokens and usd else None,
            decisions=self.decisions.kept,
            num_decisions_by_reason=dict(sorted(self.decisions.by_reason.items())),
            num_ladder_moves=self.decisions.num_ladder_moves,
            num_replica_changes=self.decisions.num_replica_changes,
            num_scale_calls=sum(region.controller.num_decisions for region in self.regions.values()),
            left_over=self.left_over(),
        )

    def left_over(self) -> int:
        """Requests that have not ended, and whatever counter of them is not back at zero."""
        return sum(
            region.num_under_way
            + region.recorder.num_open
            + sum(map(abs, region.attempts.in_flight))
            + len(region.attempts.elsewhere)
            + sum(machine.num_in_flight for fleet in region.fleets for machine in fleet.machines.values())
            for region in self.regions.values()
        )

    def _rungs(self) -> list[RungFigures]:
        return [
            RungFigures(
                name=rung.name,
                quality_loss=rung.quality_loss,
                concurrency=rung.concurrency or 0,
                goodput_requests_per_s=rung.goodput_requests_per_s or 0.0,
                profile=profile.name,
                origin=profile.source.origin.value,
                source=profile.source.description,
                profile_digest=profile.digest,
            )
            for rung, profile in zip(self.scenario.ladder, self._profiles, strict=True)
        ]

    def _fleet_summary(self, region: Region, fleet: Fleet) -> FleetSummary:
        alive_s = fleet.alive.total()
        ready = fleet.ready.means()
        return FleetSummary(
            name=fleet.spec.name,
            region=region.name,
            usd_per_replica_hour=fleet.spec.usd_per_hour,
            replica_hours=alive_s / 3600,
            usd=alive_s * fleet.usd_per_s,
            mean_ready=fleet.ready.total() / self.scenario.duration_s,
            most_ready=max(ready, default=0.0),
            num_starts=fleet.num_starts,
            num_crashes=fleet.num_crashes,
            ready=ready,
            paid=fleet.alive.means(),
        )

    def _region_summary(self, region: Region, clients: Tally, counted_s: float) -> RegionSummary:
        series = region.recorder.series
        worst = series.worst(from_s=self.scenario.warmup_s)
        return RegionSummary(
            name=region.name,
            clients=_summary(clients, counted_s),
            worst_attainment=None if worst is None else worst[0],
            worst_at_s=None if worst is None else worst[1],
            num_forwarded=region.num_forwarded,
            num_ejections=region.attempts.num_ejections,
            arrivals=series.arrivals.values,
            good=series.good.values,
            degraded=series.degraded.values,
            refused=series.refused.values,
            failed=series.failed.values,
            ladder_step=series.level.means(),
            ttft_p99_s=[histogram.quantile(0.99) for histogram in series.ttft_s],
        )


def _grouped(pairs: Iterator[tuple[str, Tally]]) -> Mapping[str, Tally]:
    found: dict[str, Tally] = {}
    for name, tally in pairs:
        found.setdefault(name, Tally()).merge(tally)
    return dict(sorted(found.items()))


def _summary(tally: Tally, counted_s: float) -> Summary:
    return Summary(
        num_requests=tally.num_requests,
        outcomes={outcome.value: tally.outcomes[outcome] for outcome in Outcome},
        reasons=dict(sorted(tally.reasons.items())),
        answered_by=dict(sorted(tally.rungs.items())),
        offered_requests_per_s=tally.num_requests / counted_s,
        goodput_requests_per_s=tally.num_good / counted_s,
        attainment=tally.attainment,
        degraded_share=tally.degraded_share,
        mean_quality_loss=tally.mean_loss,
        num_spilled=tally.num_spilled,
        num_trimmed=tally.num_trimmed,
        num_prompt_tokens=tally.num_prompt_tokens,
        num_output_tokens=tally.num_tokens,
        num_good_output_tokens=tally.num_good_tokens,
        ttft_s=_quantiles(tally.ttft_s),
        tpot_s=_quantiles(tally.tpot_s),
    )


def _quantiles(histogram: LogHistogram) -> dict[str, float | None]:
    return {"mean": histogram.mean, **{name: histogram.quantile(share) for name, share in _QUANTILES}}
