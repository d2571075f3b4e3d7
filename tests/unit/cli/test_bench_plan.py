"""What `lightship bench` makes of its flags."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from lightship.cli.bench import add_bench_command
from lightship.cli.bench_plan import BenchPlan, plan_bench
from lightship.errors import MeasurementError, UsageError
from lightship.evaluation.performance.arrivals import BurstArrivals, ConstantArrivals, PoissonArrivals, RampArrivals
from lightship.evaluation.performance.open_loop_protocol import OpenLoopProtocol, SyntheticWorkload
from lightship.evaluation.performance.protocol import PerformanceProtocol
from lightship.evaluation.performance.records import NO_SLO, Slo
from lightship.evaluation.performance.search import NextRun
from lightship.evaluation.performance.traces import Trace


def planned(*flags: str, environment: dict[str, str] | None = None) -> BenchPlan:
    parser = argparse.ArgumentParser()
    add_bench_command(parser.add_subparsers(dest="topic"))
    return plan_bench(
        parser.parse_args(["bench", "http://x", "--model", "m", *flags]),
        environment or {},
        url="http://x",
        model="m",
        fresh_seed=99,
    )


def open_loop(plan: BenchPlan) -> OpenLoopProtocol:
    assert isinstance(plan.protocol, OpenLoopProtocol)
    return plan.protocol


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    rows = [{"arrival_s": float(n), "num_prompt_tokens": 100, "num_output_tokens": 10} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_plan_rate_alone_is_poisson_with_stated_defaults() -> None:
    plan = planned("--rate", "10")
    assert open_loop(plan).name == "open-loop-1/poisson/p64-o32/r10/5+30s/seed99"
    assert (plan.slo, plan.search, plan.settings) == (NO_SLO, None, {"rate": 10.0})
    assert open_loop(planned("--rate", "10", "--seed", "3")).seed == 3


@pytest.mark.parametrize(
    ("flags", "arrivals"),
    [
        (("--arrivals", "constant"), ConstantArrivals(8)),
        (("--arrivals", "poisson", "--burstiness", "0.5"), PoissonArrivals(8, 0.5)),
        (("--arrivals", "burst"), BurstArrivals(10, 1.25)),
        (("--arrivals", "burst", "--burst-size", "4"), BurstArrivals(4, 0.5)),
        (("--arrivals", "ramp", "--rate-to", "20"), RampArrivals(8, 20)),
    ],
)
def test_plan_patterns_of_arrivals(flags: tuple[str, ...], arrivals: object) -> None:
    workload = open_loop(planned("--rate", "8", *flags)).workload
    assert isinstance(workload, SyntheticWorkload)
    assert workload.arrivals == arrivals


def test_plan_concurrency_is_a_closed_loop() -> None:
    plan = planned("--concurrency", "4", "--duration", "3", "--prompt-tokens", "16", "--output-tokens", "8")
    assert isinstance(plan.protocol, PerformanceProtocol)
    assert (plan.protocol.concurrencies, plan.protocol.duration_s) == ((4,), 3)
    assert (plan.protocol.num_prompt_tokens, plan.protocol.num_output_tokens) == (16, 8)


def test_plan_trace_is_cut_to_the_time_of_the_run(trace: Path) -> None:
    flags = ("--time-scale", "2", "--start", "10", "--duration", "8", "--warmup", "2", "--max-output-tokens", "5")
    protocol = open_loop(planned("--trace", str(trace), *flags))
    assert isinstance(protocol.workload, Trace)
    # ten seconds of the run are twenty of the trace
    assert protocol.workload.changes.num_used == 20
    assert (protocol.warmup_s, protocol.window_s, protocol.end_s) == (2, 8, 10)
    assert protocol.workload.requests[-1].arrival_s == 9.5
    assert protocol.workload.changes.num_answers_cut == 20


def test_plan_slo_of_one_limit_has_only_that_one() -> None:
    plan = planned("--rate", "1", "--slo-e2e-ms", "900")
    assert plan.slo == Slo(float("inf"), float("inf"), 900)
    assert plan.slo.name == "slo-e2e900ms"


def test_plan_search_over_rates_takes_each_run_to_its_load_with_another_seed() -> None:
    plan = planned("--search", "rate", "--rate", "4", "--slo-ttft-ms", "200", "--duration", "20", "--seed", "7")
    assert plan.search is not None
    assert (plan.search.first, plan.search.duration_s, plan.search.attainment) == (4, 20, 0.95)
    run = plan.at_load(NextRun(8.0, 40.0), 3)
    assert run.name == "open-loop-1/poisson/p64-o32/r8/5+40s/seed10"


def test_plan_search_over_users_counts_in_whole_numbers() -> None:
    plan = planned("--search", "concurrency", "--slo-tpot-ms", "50")
    assert plan.search is not None
    assert (plan.search.first, plan.search.is_whole) == (1, True)
    run = plan.at_load(NextRun(16.0, 60.0), 1)
    assert isinstance(run, PerformanceProtocol)
    assert (run.concurrencies, run.duration_s, run.time_cap_s, run.seed) == ((16,), 60, 120, 100)


def test_plan_key_comes_from_the_environment_and_stays_out_of_the_result() -> None:
    plan = planned("--rate", "1", "--api-key-env", "KEY", environment={"KEY": "s3cret"})
    assert plan.headers == {"authorization": "Bearer s3cret"}
    assert "s3cret" not in str(plan.settings)


REFUSED = [
    ((), "no load is named"),
    (("--rate", "0"), "--rate: must be above 0"),
    (("--rate", "nan"), "--rate: must be above 0"),
    (("--rate", "1", "--concurrency", "2"), "--rate: a closed loop has none"),
    (("--rate", "1", "--arrivals", "poisson", "--concurrency", "2"), "--concurrency: only with --arrivals closed"),
    (("--arrivals", "closed"), "a closed loop needs a number of users"),
    (("--concurrency", "0"), "--concurrency: must be 1 to 10000"),
    (("--concurrency", "2", "--warmup", "3"), "--warmup: not with a closed loop"),
    (("--concurrency", "2", "--duration", "-1"), "a run of -1 s"),
    (("--rate", "1", "--duration", "0"), "duration"),
    (("--rate", "1", "--warmup", "-5"), "-5 s of it warm-up"),
    (("--rate", "1", "--output-tokens", "0"), "at least one output token"),
    (("--rate", "1", "--rate-to", "2"), "--rate-to: only with --arrivals ramp"),
    (("--rate", "1", "--arrivals", "ramp"), "a ramp needs --rate and --rate-to"),
    (("--rate", "1", "--burst-size", "2"), "--burst-size: only with --arrivals burst"),
    (("--rate", "0", "--arrivals", "burst"), "--rate: must be above 0"),
    (("--rate", "1", "--arrivals", "constant", "--burstiness", "2"), "--burstiness: only with --arrivals poisson"),
    (("--rate", "1", "--time-scale", "2"), "--time-scale: only with --trace"),
    (("--rate", "1", "--attainment", "0.9"), "--attainment: only with --search"),
    (("--search", "rate"), "a search needs an SLO"),
    (("--search", "rate", "--slo-ttft-ms", "9", "--arrivals", "ramp", "--rate-to", "3"), "a ramp needs"),
    (("--search", "rate", "--slo-ttft-ms", "9", "--concurrency", "3"), "does not go with --arrivals closed"),
    (("--search", "concurrency", "--slo-ttft-ms", "9", "--arrivals", "poisson"), "does not go with"),
    (("--search", "rate", "--slo-ttft-ms", "9", "--attainment", "1"), "between 0 and 1"),
    (("--rate", "1", "--slo-ttft-ms", "0"), "--slo-ttft-ms: must be above 0"),
    (("--rate", "1", "--api-key-env", "NOPE"), "--api-key-env NOPE: the environment variable is not set"),
    (("--rate", "1", "--text", "/nowhere.txt"), "there is no such file"),
    (("--rate", "1", "-o", "/nowhere/r.json"), "the file cannot be written there"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_plan_flags_that_make_no_sense_are_refused(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        planned(*flags)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "flag", [("--rate", "1"), ("--concurrency", "1"), ("--prompt-tokens", "5"), ("--search", "rate")]
)
def test_plan_trace_with_another_load_is_refused(flag: tuple[str, str], trace: Path) -> None:
    slo = ("--slo-ttft-ms", "5")
    with pytest.raises(UsageError, match="not with --trace"):
        planned("--trace", str(trace), *flag, *slo)


def test_plan_trace_that_cannot_be_read_keeps_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"arrival_s": 1, "num_prompt_tokens": 1}\n')
    with pytest.raises(MeasurementError, match=r"t\.jsonl:1: not a request"):
        planned("--trace", str(path))
