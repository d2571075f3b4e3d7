from __future__ import annotations

from contextlib import suppress

from prometheus_client import CollectorRegistry, generate_latest

from lightship.gateway.routing.balancing import BalancedEngine
from lightship.gateway.routing.collector import RoutingCollector
from lightship.ports.engine import AttemptError
from lightship.testing.fake_engine import FakeReply, always, error_reply
from lightship.testing.replica_pools import call, pool_of, replica
from lightship.testing.virtual_time import run_in_virtual_time


def test_collector_shows_the_pool_as_it_is_whatever_replicas_it_has() -> None:
    async def run() -> tuple[set[str], set[str]]:
        pool = pool_of(always(error_reply(500)), always(FakeReply()))
        await pool.probe_all()
        registry = CollectorRegistry()
        registry.register(RoutingCollector(pool))
        for _ in range(20):
            with suppress(AttemptError):
                async with BalancedEngine(pool).open(call()):
                    pass
        async with BalancedEngine(pool).open(call(max_output_tokens=200)):
            before = set(generate_latest(registry).decode().splitlines())
        await pool.apply([replica(always(FakeReply()), "new")], interval_s=1)
        return before, set(generate_latest(registry).decode().splitlines())

    before, after = run_in_virtual_time(run())
    assert before >= {
        'lightship_requests_in_flight{replica="r1"} 1.0',
        'lightship_replica_up{replica="r0"} 1.0',
        'lightship_replica_breaker_state{replica="r0"} 2.0',
        'lightship_replica_breaker_state{replica="r1"} 0.0',
        'lightship_replica_ejected{replica="r0"} 0.0',
        'lightship_replica_work_seconds{replica="r1"} 0.5',
        'lightship_routing_prefix_blocks_total{result="known"} 0.0',
    }
    picks = [line for line in before if line.startswith("lightship_routing_picks_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in picks) == 21
    assert 'lightship_replica_up{replica="new"} 1.0' in after
    assert not any('replica="r0"' in line for line in after)
