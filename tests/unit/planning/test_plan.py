"""The plan as a whole, on shapes and machines that are checkable by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lightship.artifacts.model_shape import ModelShape
from lightship.errors import UsageError
from lightship.planning.accelerators import find_accelerator, load_accelerators
from lightship.planning.capacity import Traffic, staff
from lightship.planning.fitting import changes, fit
from lightship.planning.latency import MeasuredLoad, Promise, Tokens
from lightship.planning.memory import EngineSettings
from lightship.planning.needs import replica_needs
from lightship.planning.plan import plan
from lightship.planning.records import MachineToPlan, PlanRequest, Prices, RungToPlan
from lightship.planning.speed import RungSpeed, TooSlow
from lightship.ports.deployment import Figure, FigureSource, ReplicaNeeds

GIB = 2**30
ACCELERATORS = load_accelerators()
SHAPE_8B = ModelShape(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
)


def given(value: float, unit: str = "") -> Figure:
    return Figure(value, unit, FigureSource.GIVEN, "given")


def gpu(name: str, count: int = 1) -> MachineToPlan:
    accelerator = find_accelerator(name, ACCELERATORS)
    vendor = {kind: given(accelerator.flops_per_s(kind)) for kind in ("half", "int8", "fp8")}
    return MachineToPlan(
        name=accelerator.name,
        memory_bytes=given(256 * GIB),
        num_cores=given(8),
        bandwidth=given(accelerator.bandwidth_bytes_per_s),
        flops=vendor,
        read_bytes_per_s=given(100e6),
        accelerator=accelerator,
        num_accelerators=count,
    )


CPU = MachineToPlan(
    "cpu", given(16 * GIB), given(4), bandwidth=given(50e9), flops={"half": given(1e12)}, read_bytes_per_s=given(100e6)
)
VLLM = EngineSettings("vllm", 2 * GIB, "auto", context_length=8192, max_sequences=64, step_tokens=2048, device="cuda")
RUNG = RungToPlan(
    "bf16", SHAPE_8B, given(16e9, "B"), VLLM, startup_s=given(90), warmup_s=given(120), measured_peak=None
)
OPENVINO = replace(VLLM, engine="openvino", device="CPU", kv_cache_bytes=GIB, step_tokens=64)
REQUEST = PlanRequest(
    rungs=(RUNG,),
    machine=gpu("h100-sxm"),
    traffic=Traffic(5.0, 15.0, 2.0),
    tokens=Tokens(512, 128),
    promise=Promise(2000, 50, 0.95),
    efficiency=given(0.5),
)
MEASURED = MeasuredLoad(8, 100.0, 20.0, 4.0, 0.98, Tokens(512, 128))


def test_plan_of_8b_on_an_h100_fits_and_is_staffed_for_the_peak() -> None:
    found = plan(REQUEST, accelerators=ACCELERATORS)
    assert found.is_possible
    speed = found.rungs[0].speed
    assert isinstance(speed, RungSpeed)
    # the cache holds 2 GiB / 128 KiB = 16384 tokens, 25 requests of 640
    assert speed.places.value == 25
    fleet = found.fleets[0]
    assert fleet.num_replicas.value == fleet.staffing.num_replicas + 1
    assert fleet.staffing.offered == pytest.approx(15 * speed.service_s)


def test_plan_measured_figures_win_over_the_roofline() -> None:
    found = plan(replace(REQUEST, rungs=(replace(RUNG, loads=(MEASURED,)),)))
    speed = found.rungs[0].speed
    assert isinstance(speed, RungSpeed)
    assert (speed.places.value, speed.ttft_ms.value) == (8, 100.0)
    assert speed.goodput.value == pytest.approx(4.0)
    assert speed.goodput.source is FigureSource.MEASURED
    # 15/s x 2 s under way = 30 requests at a time
    expected = staff(requests_per_s=15, service_s=2.0, places_per_replica=8, wait_s=1.9, attainment=0.95)
    assert found.fleets[0].staffing == expected


def test_plan_unmeasured_rung_reaches_what_measured_ones_do() -> None:
    assumed = replace(REQUEST, efficiency=Figure(0.5, "", FigureSource.ASSUMED, "rule"))
    alone = plan(assumed)
    assert alone.efficiency.value == 0.5
    rung = alone.rungs[0]
    assert isinstance(rung.speed, RungSpeed)
    # half of what was planned at half of the roofline is a quarter of it
    at = rung.speed.places.value
    load = MeasuredLoad(int(at), 100.0, 20.0, rung.speed.goodput.value / 2, 1.0, REQUEST.tokens)
    both = plan(replace(assumed, rungs=(replace(RUNG, loads=(load,)), replace(RUNG, name="other"))))
    assert both.efficiency.value == pytest.approx(0.25)
    assert both.efficiency.source is FigureSource.MEASURED
    other = both.rungs[1].speed
    assert isinstance(other, RungSpeed)
    assert other.goodput.source is FigureSource.ROOFLINE


def test_plan_rung_that_beats_the_roofline_corrects_it() -> None:
    assumed = replace(REQUEST, efficiency=Figure(0.5, "", FigureSource.ASSUMED, "rule"))
    speed = plan(assumed).rungs[0].speed
    assert isinstance(speed, RungSpeed)
    load = MeasuredLoad(int(speed.places.value), 100.0, 20.0, speed.goodput.value * 3, 1.0, REQUEST.tokens)
    found = plan(replace(assumed, rungs=(replace(RUNG, loads=(load,)),)))
    assert found.efficiency.value == pytest.approx(1.5)
    assert "the machine was busy" in found.efficiency.how


def test_plan_efficiency_that_was_given_stays() -> None:
    assert plan(replace(REQUEST, rungs=(replace(RUNG, loads=(MEASURED,)),))).efficiency == REQUEST.efficiency


def test_plan_costs_are_replicas_times_price_times_730_hours() -> None:
    prices = Prices(given(2.0), cloud_input_usd_per_1m=1.0, cloud_output_usd_per_1m=3.0)
    request = replace(REQUEST, rungs=(replace(RUNG, loads=(MEASURED,)),), prices=prices)
    seen: dict[str, float] = {}

    def break_even(
        *, usd_per_hour: float, prompt_tokens_per_s: float, output_tokens_per_s: float, prices: Prices
    ) -> tuple[float, float]:
        seen.update(usd=usd_per_hour, prompt=prompt_tokens_per_s, output=output_tokens_per_s)
        return 1e9, 0.25

    fleet = plan(request, break_even=break_even).fleets[0]
    count = fleet.num_replicas.value
    assert fleet.usd_per_month is not None
    assert fleet.usd_per_month.value == pytest.approx(count * 2.0 * 730)
    good = 5.0 * 0.95 * 128 * 730 * 3600
    assert fleet.usd_per_1m_good_tokens is not None
    assert fleet.usd_per_1m_good_tokens.value == pytest.approx(count * 1460 / good * 1e6)
    assert fleet.cloud_usd_per_month is not None
    assert fleet.cloud_usd_per_month.value == pytest.approx(5.0 * 730 * 3600 * (512 + 3 * 128) / 1e6)
    busy = count - 1
    assert seen == {"usd": 2 * count, "prompt": pytest.approx(busy * 4 * 512), "output": pytest.approx(busy * 4 * 128)}
    assert fleet.break_even_utilisation is not None
    assert fleet.break_even_utilisation.value == 0.25


def test_plan_without_price_has_no_cost() -> None:
    fleet = plan(REQUEST).fleets[0]
    assert fleet.usd_per_month is None
    assert fleet.cloud_usd_per_month is None


def test_plan_ladder_needs_fewer_replicas_and_never_fewer_than_the_mean() -> None:
    slow = replace(RUNG, loads=(MEASURED,))
    fast = replace(RUNG, name="fp8", loads=(replace(MEASURED, goodput_requests_per_s=12.0),))
    alone, laddered = plan(replace(REQUEST, rungs=(slow, fast), degraded_budget=0.1)).fleets
    assert laddered.num_replicas.value < alone.num_replicas.value
    # a tenth of 5/s x 24 h over 15/s x 2 h
    assert laddered.degraded_share.value == pytest.approx(0.4)
    quiet = plan(replace(REQUEST, rungs=(slow,), traffic=Traffic(5.0, 5.0, 2.0))).fleets[0]
    assert laddered.num_replicas.value >= quiet.num_replicas.value


def test_plan_model_that_does_not_fit_says_by_how_many_bytes_and_what_would() -> None:
    found = plan(replace(REQUEST, machine=gpu("t4")), accelerators=ACCELERATORS)
    assert not found.is_possible
    assert found.fleets == ()
    planned = found.rungs[0]
    missing = planned.fit.needed.value - 0.9 * 16e9
    assert planned.fit.missing_bytes == pytest.approx(missing)
    assert f"{missing:.0f} bytes" in found.problems[0]
    assert "what would fit: a variant of 8 bits per weight" in found.problems[0]
    named = {change.what: change for change in planned.changes}
    assert named["a variant of 4 bits per weight"].is_enough
    assert named["tensor parallel over 2 x NVIDIA T4"].is_enough
    assert any("in place of NVIDIA T4" in what and change.is_enough for what, change in named.items())
    assert not named["keys and values as fp8"].is_enough


def test_changes_are_the_plan_made_again() -> None:
    machine = replace(CPU, memory_bytes=given(20 * GIB))
    rung = replace(RUNG, settings=OPENVINO)
    before = fit(rung, machine).needed.value
    for change in changes(rung, machine, ()):
        assert change.needed_bytes < before
    eight = next(one for one in changes(rung, machine, ()) if "8 bits" in one.what)
    again = fit(replace(rung, weight_bytes=given(SHAPE_8B.num_weights)), machine)
    assert eight.needed_bytes == again.needed.value


def test_plan_impossible_promise_tells_the_roofline() -> None:
    found = plan(replace(REQUEST, promise=Promise(2000, 1.0, 0.95)))
    speed = found.rungs[0].speed
    assert isinstance(speed, TooSlow)
    assert speed.is_beyond_roofline
    # reading 16 GB at 3350 GB/s takes 4.8 ms, and no token comes faster
    assert "at the roofline itself, TPOT 4." in found.problems[0]


def test_plan_promise_between_roofline_and_expectation_is_told_apart() -> None:
    speed = plan(replace(REQUEST, promise=Promise(2000, 6.0, 0.95))).rungs[0].speed
    assert isinstance(speed, TooSlow)
    assert not speed.is_beyond_roofline


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (replace(REQUEST, tokens=Tokens(0, 10)), "at least 1"),
        (replace(REQUEST, tokens=Tokens(math.nan, 10)), "at least 1"),
        (replace(REQUEST, tokens=Tokens(8000, 1000)), "do not fit the context of 8192"),
        (replace(REQUEST, efficiency=given(0.0)), "no share"),
        (replace(REQUEST, rungs=()), "no variant"),
        (
            replace(REQUEST, rungs=(replace(RUNG, settings=replace(OPENVINO, device="cuda")),)),
            "openvino is not planned on NVIDIA or AMD GPUs",
        ),
        (replace(REQUEST, rungs=(replace(RUNG, settings=replace(VLLM, tensor_parallel=4)),)), "with 1"),
        (replace(REQUEST, machine=CPU), "the machine has none"),
    ],
)
def test_plan_bad_input_is_one_clear_message(request_: PlanRequest, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(request_)


def test_plan_heads_that_do_not_divide_name_what_does() -> None:
    rung = replace(RUNG, settings=replace(VLLM, tensor_parallel=3))
    with pytest.raises(UsageError) as error:
        plan(replace(REQUEST, rungs=(rung,), machine=gpu("h100", 8)))
    assert "1, 2, 4, 8, 16, 32" in str(error.value)


def needs_on(
    machine: MachineToPlan, rung: RungToPlan, *, tpot_ms: float, request_timeout_s: float = 600
) -> ReplicaNeeds:
    return replica_needs(
        rung,
        num_cores=machine.num_cores,
        read_bytes_per_s=machine.read_bytes_per_s,
        accelerator=machine.accelerator.id if machine.accelerator else "",
        gpus_per_machine=machine.num_accelerators,
        tpot_ms=tpot_ms,
        request_timeout_s=request_timeout_s,
    )


def test_replica_needs_startup_budget_is_the_reading_twice_and_the_warm_up() -> None:
    needs = needs_on(gpu("h100"), RUNG, tpot_ms=10.0)
    assert needs.startup_budget_s.value == 440  # 16 GB / 100 MB/s x 2 + 120 s
    assert needs.startup_s.value == 90
    assert needs.drain_s.value == pytest.approx(81.92)  # 8192 tokens x 10 ms
    assert (needs.num_accelerators, needs.accelerator, needs.num_nodes) == (1, "h100-sxm", 1)


def test_replica_needs_measured_peak_wins_where_it_is_more() -> None:
    rung = replace(RUNG, settings=OPENVINO, measured_peak=Figure(1e12, "B", FigureSource.MEASURED, "here"))
    needs = needs_on(CPU, rung, tpot_ms=1e3, request_timeout_s=60)
    assert needs.memory_bytes.value == 1e12
    assert needs.drain_s.value == 60
    assert needs.num_accelerators == 0


def test_replica_needs_over_two_machines() -> None:
    rung = replace(RUNG, settings=replace(VLLM, tensor_parallel=8, pipeline_parallel=2))
    assert needs_on(gpu("h100", 8), rung, tpot_ms=10).num_nodes == 2
