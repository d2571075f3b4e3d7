from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.routing.engine_metrics import EngineGauges, EngineView, parse_engine_metrics

CASES = {
    "vllm": (
        b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0",model_name="a b}"} 4.0\n'
        b'vllm:num_requests_waiting{engine="0",model_name="a b}"} 2.0\nvllm:kv_cache_usage_perc{engine="0"} 0.5\n'
        b"vllm:num_requests_waiting_other 9\n",
        EngineGauges(2, 4, 0.5),
    ),
    "sglang": (
        b'sglang:num_running_reqs{tp_rank="0"} 1.0\nsglang:num_queue_reqs{tp_rank="0"} 7\nsglang:token_usage{} 0.28\n',
        EngineGauges(7, 1, 0.28),
    ),
    "trtllm": (
        b"trtllm_num_requests_waiting 3\ntrtllm_num_requests_running 8\ntrtllm_kv_cache_utilization 0.9\n",
        EngineGauges(3, 8, 0.9),
    ),
    "llamacpp": (
        b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 5\nllamacpp:kv_cache_usage_ratio 0.1\n",
        EngineGauges(5, 1, 0.1),
    ),
    "ours": (
        b'lightship_engine_requests_waiting{model="m"} 2.0\nlightship_engine_requests_running{model="m"} 6.0\n'
        b'lightship_engine_kv_cache_usage_ratio{model="m"} 0.75\n',
        EngineGauges(2, 6, 0.75),
    ),
    "a gateway of ours, its replicas added up": (
        b'lightship_requests_queued{model="m"} 2.0\nlightship_requests_in_flight{replica="a"} 3.0\n'
        b'lightship_requests_in_flight{replica="b"} 4.0\nlightship_rung_requests_in_flight{rung="0"} 9.0\n',
        EngineGauges(2, 7, 0.0),
    ),
    "ranks add up, the fullest cache counts": (
        b'vllm:num_requests_running{engine="0"} 4\nvllm:num_requests_running{engine="1"} 5\n'
        b'vllm:kv_cache_usage_perc{engine="0"} 0.2\nvllm:kv_cache_usage_perc{engine="1"} 0.9\n',
        EngineGauges(0, 9, 0.9),
    ),
    "nonsense is passed over": (
        b"vllm:num_requests_running NaN\nvllm:num_requests_running -3\nvllm:num_requests_running\n"
        b"vllm:num_requests_running 1e99\nvllm:num_requests_running x\nvllm:num_requests_waiting 1 1700000000\n",
        EngineGauges(1, 0, 0.0),
    ),
    "windows line ends": (b"vllm:num_requests_running 2\r\n", EngineGauges(0, 2, 0.0)),
    "a cache alone is no load": (b"vllm:kv_cache_usage_perc 0.5\n", None),
    "nothing": (b"", None),
    "html": (b"<html>vllm:num_requests_running 3</html>", None),
}


@pytest.mark.parametrize(("exposition", "expected"), CASES.values(), ids=CASES.keys())
def test_engine_metrics_are_found_under_every_engines_names(exposition: bytes, expected: EngineGauges | None) -> None:
    assert parse_engine_metrics(exposition) == expected


@given(st.lists(st.one_of(st.binary(max_size=40), st.binary(max_size=20).map(b"vllm:num_requests_running".__add__))))
def test_engine_metrics_any_bytes_give_gauges_that_make_sense(lines: list[bytes]) -> None:
    gauges = parse_engine_metrics(b"\n".join(lines))
    if gauges is not None:
        assert gauges.num_waiting >= 0
        assert gauges.num_running >= 0
        assert 0 <= gauges.kv_usage <= 1


def foreign(view: EngineView, now_s: float) -> int:
    return view.foreign_us(now_s=now_s, max_age_s=5, mean_us=100, full_us=7)


def test_view_only_what_is_not_ours_counts_and_only_when_seen_twice() -> None:
    view = EngineView()
    view.note(EngineGauges(2, 6), num_ours=3, now_s=1)
    assert foreign(view, 1) == 0  # it may be ours, on its way
    view.note(EngineGauges(2, 4), num_ours=3, now_s=2)
    assert foreign(view, 2) == 300
    view.note(EngineGauges(0, 3), num_ours=5, now_s=3)
    assert foreign(view, 3) == 0


def test_view_old_figures_do_not_count() -> None:
    view = EngineView()
    for now_s in (1, 2):
        view.note(EngineGauges(0, 4), num_ours=0, now_s=now_s)
    assert [foreign(view, now_s) for now_s in (7, 7.1)] == [400, 0]


def test_view_full_cache_with_a_queue_counts_for_more() -> None:
    view = EngineView()
    view.note(EngineGauges(0, 1, 0.99), num_ours=1, now_s=1)
    assert foreign(view, 1) == 0
    view.note(EngineGauges(1, 1, 0.95), num_ours=2, now_s=1)
    assert foreign(view, 1) == 7
