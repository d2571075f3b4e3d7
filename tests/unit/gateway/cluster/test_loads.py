"""Counts of gateways, read and added up."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.gateway.cluster.harness import CONFIG

from lightship.gateway.cluster.loads import counts_in, counts_of, pool_load
from lightship.gateway.cluster.peers import MetricsReader, gateway_counts
from lightship.ports.replica_control import RungLoad
from lightship.testing.fake_engine import FakeReply
from lightship.testing.fake_upstream import FakeUpstream
from lightship.testing.virtual_time import run_in_virtual_time

PLACE = ("qwen", 0)


def exposition(held: float, queued: float, in_flight: float, *, degraded: float = 0.0, rung: str = "0") -> bytes:
    """As prometheus_client writes it, among others."""
    return f"""# HELP lightship_rung_held_requests Requests that wait for a replica.
# TYPE lightship_rung_held_requests gauge
lightship_rung_held_requests{{model="qwen",rung="{rung}"}} {held}
# TYPE lightship_requests counter
lightship_requests_total{{model="qwen"}} 17.0
# TYPE lightship_rung_queued_requests gauge
lightship_rung_queued_requests{{model="qwen",rung="{rung}"}} {queued}
# TYPE lightship_rung_in_flight_requests gauge
lightship_rung_in_flight_requests{{model="qwen",rung="{rung}"}} {in_flight}
# TYPE lightship_rung_degraded_requests gauge
lightship_rung_degraded_requests{{model="qwen",rung="{rung}"}} {degraded}
""".encode()


def test_counts_in_an_exposition_are_read_by_model_and_rung() -> None:
    counts = counts_in(exposition(1.0, 2.0, 3.0), gateway="a")
    assert counts.loads == {PLACE: RungLoad(served_model="qwen", rung=0, num_held=1, num_queued=2, num_in_flight=3)}
    assert counts.problem == ""


def test_counts_in_nonsense_say_so() -> None:
    assert "cannot be read" in counts_in(b'lightship_rung_held_requests{model="qwen"', gateway="a").problem
    assert "cannot be read" in counts_in(exposition(1, 2, 3, rung="zero"), gateway="a").problem
    assert "cannot be read" in counts_in(b"\xff\xfe", gateway="a").problem
    assert "cannot be read" in counts_in(exposition(1, 2, float("nan")), gateway="a").problem
    assert "cannot be read" in counts_in(exposition(1, 2, 3, degraded=float("inf")), gateway="a").problem


def test_pool_load_adds_up_what_is_held_as_queued() -> None:
    one = counts_in(exposition(1, 2, 3, degraded=1.5), gateway="a")
    other = RungLoad(
        served_model="qwen", rung=0, num_held=10, num_queued=20, num_in_flight=30, num_degraded=2.0, attainment=0.9
    )
    total = pool_load(PLACE, [one, counts_of([other], gateway="b")])
    assert (total.num_queued, total.num_in_flight, total.num_degraded) == (33, 33, 3.5)
    assert (total.attainment, total.problem) == (0.9, "")


def test_pool_load_rung_that_one_gateway_does_not_tell_of_is_missing_and_not_zero() -> None:
    told = counts_in(exposition(1, 2, 3), gateway="a")
    partly = counts_in(exposition(1, 2, 3).replace(b"lightship_rung_held", b"other"), gateway="b")
    assert pool_load(PLACE, [told, partly]).problem == "b: it tells nothing of this rung"


def gateway(name: str, ip: str, *, is_ready: bool = True, is_leaving: bool = False) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": {"app": "gateway"}}
    if is_leaving:
        metadata["deletionTimestamp"] = "2026-11-27T10:00:00Z"
    ready = {"type": "Ready", "status": "True" if is_ready else "False"}
    return {"metadata": metadata, "status": {"podIP": ip, "conditions": [ready]}}


def test_gateway_counts_silent_gateways_matter_only_while_they_take_requests() -> None:
    async def read(address: str) -> bytes | None:
        if address == "http://10.0.0.2:8080":
            await asyncio.sleep(10)
        return exposition(1, 0, 0) if address in {"http://10.0.0.1:8080", "http://10.0.0.5:8080"} else None

    pods = [
        gateway("answers", "10.0.0.1"),
        gateway("hangs", "10.0.0.2"),
        gateway("starts", "10.0.0.3", is_ready=False),
        gateway("leaves", "10.0.0.4", is_leaving=True),
        gateway("leaves-and-answers", "10.0.0.5", is_leaving=True),
        {"metadata": {"name": "engine", "labels": {}}, "status": {"podIP": "10.0.0.6"}},
    ]

    async def main() -> dict[str, str]:
        counts = await gateway_counts(pods, CONFIG, own_pod="answers", local_loads=None, read=read)
        return {one.gateway: one.problem for one in counts}

    assert run_in_virtual_time(main()) == {
        "answers": "",
        "hangs": "no metrics within 1 s",
        "leaves-and-answers": "",
    }


def test_gateway_counts_own_pod_is_asked_in_memory_where_it_can() -> None:
    async def read(address: str) -> bytes | None:
        raise AssertionError(f"{address} was read")

    async def main() -> list[str]:
        counts = await gateway_counts(
            [gateway("me", "10.0.0.1")], CONFIG, own_pod="me", local_loads=lambda: [], read=read
        )
        return [one.gateway for one in counts]

    assert asyncio.run(main()) == ["me"]


def test_metrics_reader_reads_over_http_and_gives_up_in_time() -> None:
    async def main() -> None:
        upstream = FakeUpstream(lambda _: FakeReply())
        upstream.metrics = exposition(1, 2, 3)
        async with upstream.serving(), MetricsReader(limit_s=1.0) as read:
            assert await read(upstream.base_url) == upstream.metrics
            assert await read(upstream.base_url) == upstream.metrics
            assert upstream.num_connections == 1
            upstream.metrics = None
            assert await read(upstream.base_url) is None
        async with MetricsReader(limit_s=1.0) as read:
            assert await read(upstream.base_url) is None

    asyncio.run(main())
