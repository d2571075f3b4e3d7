"""What simulations found as tables: a column for each way to run the service."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from lightship.cli.tables import print_table
from lightship.ports.engine import Outcome
from lightship.simulation.result import SimulationResult, bin_words, worst_attainment

_Words = Callable[[SimulationResult], str]


def print_results(results: Sequence[SimulationResult]) -> None:
    """Effects: prints the tables on standard output."""
    console = Console(highlight=False)
    first = results[0]
    slo = first.slo
    console.print(
        f"{first.name}: {first.duration_s / 3600:g} h, promise {slo['ttft_s']:g} s to the first token and "
        f"{slo['tpot_s']:g} s per later one for {slo['attainment']:.0%}; seed {first.seed}, engines {first.fidelity}",
        markup=False,
        soft_wrap=True,
    )
    print_table(_summary(results))
    if any(len(one.by_priority) > 1 or one.by_tenant or len(one.regions) > 1 for one in results):
        print_table(_groups(results))
    print_table(_fleets(results))
    for one in results:
        for note in one.notes:
            console.print(f"{one.alternative or 'as written'}: {note}", markup=False, soft_wrap=True)


def _summary(results: Sequence[SimulationResult]) -> Table:
    table = Table(title=None)
    table.add_column("")
    for one in results:
        table.add_column(one.alternative or "as written", justify="right")
    rows: list[tuple[str, _Words]] = [
        ("requests", lambda one: f"{one.total.num_requests:,}"),
        ("offered, requests/s", lambda one: f"{one.total.offered_requests_per_s:.4g}"),
        ("goodput, requests/s", lambda one: f"{one.total.goodput_requests_per_s:.4g}"),
        ("within the promise", lambda one: _share(one.total.attainment)),
        (f"in the worst {bin_words(results[0])}", lambda one: _share(worst_attainment(one))),
        *((outcome.value, _outcome(outcome)) for outcome in Outcome),
        ("degraded share of answers", lambda one: _share(one.total.degraded_share)),
        ("quality lost, mean", lambda one: _share(one.total.mean_quality_loss)),
        ("answered elsewhere", lambda one: f"{one.total.num_spilled:,}"),
        ("TTFT p50 / p99, s", lambda one: f"{_time(one.total.ttft_s['p50'])} / {_time(one.total.ttft_s['p99'])}"),
        ("TPOT p50 / p99, s", lambda one: f"{_time(one.total.tpot_s['p50'])} / {_time(one.total.tpot_s['p99'])}"),
        ("replica hours", lambda one: f"{sum(fleet.replica_hours for fleet in one.fleets):,.1f}"),
        ("replicas, USD", lambda one: f"{one.usd_replicas:,.2f}"),
        ("upstream, USD", lambda one: f"{one.usd_upstream:,.2f}"),
        ("USD per 1M good tokens", lambda one: _money(one.usd_per_1m_good_tokens)),
        ("ladder moves", lambda one: f"{one.num_ladder_moves:,}"),
        ("changes of replicas", lambda one: f"{one.num_replica_changes:,}"),
    ]
    for name, words in rows:
        table.add_row(name, *(words(one) for one in results))
    return table


def _groups(results: Sequence[SimulationResult]) -> Table:
    table = Table("requests of", "way to run it")
    for title in ("requests", "good", "degraded", "refused", "failed", "TTFT p99, s"):
        table.add_column(title, justify="right")
    for one in results:
        groups = [(f"class {name}", summary) for name, summary in one.by_priority.items()]
        groups += [(f"tenant {name}", summary) for name, summary in one.by_tenant.items()]
        if len(one.regions) > 1:
            groups += [(f"clients of {region.name}", region.clients) for region in one.regions]
        for name, summary in groups:
            refused = summary.outcomes["rejected"] + summary.outcomes["evicted"]
            table.add_row(
                name,
                one.alternative or "as written",
                f"{summary.num_requests:,}",
                _share(summary.attainment),
                _share(summary.degraded_share),
                f"{refused:,}",
                f"{summary.outcomes['failed']:,}",
                _time(summary.ttft_s["p99"]),
            )
    return table


def _fleets(results: Sequence[SimulationResult]) -> Table:
    table = Table("replicas of", "way to run it")
    for title in ("mean", "most", "starts", "crashes", "hours", "USD"):
        table.add_column(title, justify="right")
    for one in results:
        for fleet in one.fleets:
            table.add_row(
                fleet.name,
                one.alternative or "as written",
                f"{fleet.mean_ready:.1f}",
                f"{fleet.most_ready:.1f}",
                f"{fleet.num_starts:,}",
                f"{fleet.num_crashes:,}",
                f"{fleet.replica_hours:,.1f}",
                f"{fleet.usd:,.2f}",
            )
    return table


def _outcome(outcome: Outcome) -> _Words:
    return lambda one: f"{one.total.outcomes[outcome.value]:,}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _time(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"
