"""Candidates for one Lease under partitions, slow answers and restarts, in virtual time."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.unit.gateway.cluster.harness import NAMESPACE, Cluster, in_cluster, until

from lightship.kubernetes.resources import LEASES


@pytest.mark.parametrize("seed", range(4))
def test_election_under_partitions_and_slow_answers_never_has_two_leaders(seed: int) -> None:
    async def body(cluster: Cluster) -> None:
        draw = random.Random(seed)
        gateways = [await cluster.join(f"gw-{number}") for number in range(3)]
        led: set[str] = set()
        for _ in range(60):
            gateway = draw.choice(gateways)
            gateway.exchange.is_cut = draw.random() < 0.5
            cluster.fake.delay_s = draw.choice([0.0, 0.0, 0.5, 3.0, 4.9, 7.0])
            if draw.random() < 0.1:
                cluster.fake.fail(2, status=draw.choice([409, 500]), when=lambda request: request.method == "PUT")
            for _ in range(draw.randrange(20, 200)):
                leading = [one.name for one in gateways if one.controller.election.is_leader]
                assert len(leading) <= 1
                led.update(leading)
                await asyncio.sleep(0.1)
        assert len(led) > 1  # the test has seen leaders change
        cluster.fake.delay_s = 0.0
        for gateway in gateways:
            gateway.exchange.is_cut = False
        await until(lambda: sum(one.controller.election.is_leader for one in gateways) == 1, within_s=30)

    in_cluster(body)


def test_election_lease_is_renewed_well_before_others_may_take_over() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        await until(lambda: gateway.controller.election.is_leader, within_s=1)
        left_s = []
        for _ in range(300):
            left_s.append(gateway.controller.election.leads_for_s)
            await asyncio.sleep(0.1)
        assert min(left_s) > 7.9  # renewed every 2 s, good for 10
        lease = cluster.fake.find(LEASES, "lightship-scaler", namespace=NAMESPACE)
        assert lease is not None
        assert lease["spec"]["leaseTransitions"] == 1

    in_cluster(body)
