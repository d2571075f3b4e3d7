"""One and several controllers against a fake cluster, in virtual time, under the Role that the manifests bring."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.unit.gateway.cluster.harness import (
    CONFIG,
    DEPLOYMENT,
    MODEL,
    NAMESPACE,
    Cluster,
    Gateway,
    in_cluster,
    until,
)

from lightship.kubernetes.resources import DEPLOYMENTS, LEASES
from lightship.ports.replica_control import ReplicaPhase
from lightship.testing.virtual_time import run_in_virtual_time


def status(gateway: Gateway) -> ReplicaPhase:
    return gateway.controller.status(MODEL, 0).phase


def leaders(*gateways: Gateway) -> list[str]:
    return [gateway.name for gateway in gateways if gateway.controller.election.is_leader]


def test_controller_wakes_from_zero_and_routes_to_the_pod_once_it_is_ready() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        await until(lambda: bool(gateway.replicas), within_s=1)
        assert gateway.replicas == [[]]
        asleep = gateway.controller.status(MODEL, 0)
        assert (asleep.phase, asleep.can_wake, asleep.start_remaining_s) == (ReplicaPhase.SLEEPING, True, 20.0)
        await until(lambda: bool(leaders(gateway)), within_s=1)
        gateway.held = 1
        gateway.controller.wake(MODEL, 0)
        assert await until(lambda: cluster.replicas == 1, within_s=1) <= 0.05
        await asyncio.sleep(0.01)
        assert status(gateway) is ReplicaPhase.STARTING
        [pod] = cluster.pod_names()
        cluster.workloads.start(pod)
        await asyncio.sleep(5)
        starting = gateway.controller.status(MODEL, 0)
        assert (starting.num_starting, starting.can_wake) == (1, True)
        assert starting.start_remaining_s == pytest.approx(15, abs=0.2)  # 20 s usually, 5 are over
        changed = asyncio.create_task(gateway.controller.changed())
        await asyncio.sleep(0)
        cluster.workloads.make_ready(pod)
        await asyncio.sleep(0.01)
        assert changed.done()
        assert status(gateway) is ReplicaPhase.READY
        [replica] = gateway.replicas[-1]
        assert (replica.name, replica.base_url) == (pod, "http://10.0.0.1:8000")
        assert (replica.served_model, replica.rung, replica.variant_name) == (MODEL, 0, "int8")
        [record] = [one for one in gateway.controller.decisions.recent() if one.effect == "scaled"]
        assert (record.replicas_before, record.replicas, record.reason) == (0, 1, "wake")

    in_cluster(body)


def test_controller_request_held_by_a_follower_wakes_within_a_second() -> None:
    async def body(cluster: Cluster) -> None:
        leader = await cluster.join("gw-1")
        await until(lambda: bool(leaders(leader)), within_s=1)
        follower = await cluster.join("gw-2")
        await asyncio.sleep(3)
        assert leaders(leader, follower) == ["gw-1"]
        follower.held = 1
        follower.controller.wake(MODEL, 0)
        assert await until(lambda: cluster.replicas == 1, within_s=1) <= 1.0
        assert cluster.scale_patches() == ["gw-1"]

    in_cluster(body)


def test_controller_sums_what_all_gateways_have() -> None:
    async def body(cluster: Cluster) -> None:
        one, two = await cluster.join("gw-1"), await cluster.join("gw-2")
        await until(lambda: bool(leaders(one, two)), within_s=3)
        one.queued, one.in_flight, two.in_flight = 4, 9, 12
        await until(lambda: cluster.replicas == 3, within_s=1)  # 25 at 10 for each

    in_cluster(body, replicas=1)


def test_controller_pod_that_starts_keeps_its_rung_from_looking_idle() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        await until(lambda: bool(leaders(gateway)), within_s=1)
        await asyncio.sleep(0.1)
        seen = gateway.controller.status(MODEL, 0)
        assert (seen.phase, seen.num_ready, seen.num_starting) == (ReplicaPhase.STARTING, 0, 2)
        assert (gateway.loads[-1].num_ready, gateway.loads[-1].num_starting) == (0, 2)
        crashing, other = cluster.pod_names()
        cluster.workloads.crash(crashing)
        cluster.workloads.make_ready(other)
        await asyncio.sleep(1)
        assert (gateway.loads[-1].num_ready, gateway.loads[-1].num_starting) == (1, 0)

    in_cluster(body, replicas=2)


def test_controller_load_says_what_waits_what_is_under_way_and_whether_that_is_all() -> None:
    async def body(cluster: Cluster) -> None:
        one, two = await cluster.join("gw-1"), await cluster.join("gw-2")
        one.held, one.queued, one.in_flight, two.queued, two.in_flight = 1, 2, 3, 10, 20
        await until(lambda: bool(one.loads or two.loads), within_s=3)
        load = (one.loads or two.loads)[-1]
        assert (load.num_queued, load.num_in_flight, load.is_complete) == (13, 23, True)
        two.is_readable = False
        await asyncio.sleep(1)
        assert not (one.loads or two.loads)[-1].is_complete

    in_cluster(body)


def test_controllers_exactly_one_of_two_patches() -> None:
    async def body(cluster: Cluster) -> None:
        one, two = await cluster.join("gw-1"), await cluster.join("gw-2")
        one.in_flight = 5
        await until(lambda: cluster.replicas == 1, within_s=5)
        for number in range(40):
            one.in_flight = 5 + number
            await asyncio.sleep(1)
            assert len(leaders(one, two)) == 1
        assert cluster.replicas == 4
        assert len(set(cluster.scale_patches())) == 1

    in_cluster(body)


def test_controllers_follower_takes_over_when_the_leader_is_cut_off_and_they_never_lead_together() -> None:
    async def body(cluster: Cluster) -> None:
        one = await cluster.join("gw-1")
        await until(lambda: bool(leaders(one)), within_s=1)
        two = await cluster.join("gw-2")
        await asyncio.sleep(10)
        one.exchange.is_cut = True
        two.held = 1
        together = 0

        def is_taken() -> bool:
            nonlocal together
            together = max(together, len(leaders(one, two)))
            return leaders(one, two) == ["gw-2"]

        lasted_s = await until(is_taken, within_s=20, step_s=0.01)
        # 15 s after it last saw the Lease renewed, which was up to 2.2 s before, and up to 2.2 s until it looks again
        assert 12 < lasted_s <= 17.5
        assert together == 1
        await until(lambda: cluster.replicas == 1, within_s=1)
        assert cluster.scale_patches() == ["gw-2"]
        one.exchange.is_cut = False
        await asyncio.sleep(30)
        assert leaders(one, two) == ["gw-2"]
        lease = cluster.fake.find(LEASES, "lightship-scaler", namespace=NAMESPACE)
        assert lease is not None
        assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]) == ("gw-2", 2)

    in_cluster(body)


def test_controller_leader_that_ends_lets_another_lead_at_once() -> None:
    async def main() -> None:
        async with Cluster() as cluster:
            one = await cluster.join("gw-1")
            await until(lambda: bool(leaders(one)), within_s=1)
        lease = cluster.fake.find(LEASES, "lightship-scaler", namespace=NAMESPACE)
        assert lease is not None
        assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == ("", 1)

    run_in_virtual_time(main())


def test_controller_whose_lease_was_taken_stops_at_once() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        await until(lambda: bool(leaders(gateway)), within_s=1)
        lease = cluster.fake.find(LEASES, "lightship-scaler", namespace=NAMESPACE)
        assert lease is not None
        lease["spec"] |= {"holderIdentity": "stranger", "renewTime": "2026-11-27T10:00:00.000000Z"}
        cluster.fake.put(lease)
        await until(lambda: not leaders(gateway), within_s=2.5)
        gateway.held = 1
        gateway.controller.wake(MODEL, 0)
        await asyncio.sleep(5)
        assert cluster.replicas == 0
        assert gateway.controller.election.leader == "stranger"

    in_cluster(body)


def test_controller_lease_changed_without_another_holder_goes_on_leading() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        await until(lambda: bool(leaders(gateway)), within_s=1)
        lease = cluster.fake.find(LEASES, "lightship-scaler", namespace=NAMESPACE)
        assert lease is not None
        lease["metadata"]["labels"] = {"seen": "yes"}
        cluster.fake.put(lease)
        await asyncio.sleep(30)
        assert leaders(gateway) == ["gw-1"]
        lease = cluster.fake.find(LEASES, "lightship-scaler", namespace=NAMESPACE)
        assert lease is not None
        assert lease["metadata"]["labels"] == {"seen": "yes"}
        assert lease["spec"]["leaseTransitions"] == 1

    in_cluster(body)


def test_controller_api_server_down_freezes_decisions_and_keeps_the_replicas() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        gateway.in_flight = 5
        await until(lambda: cluster.replicas == 1, within_s=3)
        cluster.workloads.make_all_ready(DEPLOYMENT)
        await asyncio.sleep(1)
        assert len(gateway.replicas[-1]) == 1
        cluster.fake.is_down = True
        cluster.fake.end_watches()
        down_s = cluster.clock.monotonic_s()
        gateway.in_flight = 35
        await asyncio.sleep(300)
        tries = [time_s for time_s in gateway.exchange.times_s if time_s > down_s]
        assert len(tries) < 250  # the Lease every 2 s, Pods and the Deployment ever more rarely
        assert status(gateway) is ReplicaPhase.READY
        assert len(gateway.replicas[-1]) == 1
        assert leaders(gateway) == []
        cluster.fake.is_down = False
        await until(lambda: cluster.replicas == 4, within_s=45)
        assert len(gateway.replicas[-1]) == 1

    in_cluster(body)


def test_controller_api_server_down_tells_that_nothing_can_be_woken() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        await asyncio.sleep(1)
        cluster.fake.is_down = True
        cluster.fake.end_watches()
        await asyncio.sleep(40)
        seen = gateway.controller.status(MODEL, 0)
        assert (seen.phase, seen.can_wake) == (ReplicaPhase.SLEEPING, False)
        assert "the API server does not answer" in seen.detail

    in_cluster(body)


def test_controller_gateway_that_cannot_be_read_freezes_decisions() -> None:
    async def body(cluster: Cluster) -> None:
        one, two = await cluster.join("gw-1"), await cluster.join("gw-2")
        one.in_flight = 5
        await until(lambda: cluster.replicas == 1, within_s=5)
        two.is_readable = False
        one.in_flight = 25
        await asyncio.sleep(10)
        assert cluster.replicas == 1
        [leader] = [gateway for gateway in (one, two) if leaders(gateway)]
        last = leader.controller.decisions.last(DEPLOYMENT)
        assert last is not None
        assert (last.effect, last.problem) == ("frozen", "gw-2: no metrics")
        two.is_readable = True
        await until(lambda: cluster.replicas == 3, within_s=1)

    in_cluster(body)


def test_controller_pods_that_cannot_be_followed_freeze_decisions_of_a_leader() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        gateway.in_flight = 5
        await until(lambda: cluster.replicas == 1, within_s=3)
        assert cluster.fake.rules is not None
        allowed = list(cluster.fake.rules)
        cluster.fake.rules = [rule for rule in allowed if "pods" not in rule.resources]
        cluster.fake.end_watches()
        await asyncio.sleep(32)
        gateway.in_flight = 35
        await asyncio.sleep(5)
        assert leaders(gateway) == ["gw-1"]
        assert cluster.replicas == 1
        last = gateway.controller.decisions.last(DEPLOYMENT)
        assert last is not None
        assert last.effect == "frozen"
        assert last.problem.startswith("Pods could not be followed for 3")
        cluster.fake.rules = allowed
        await until(lambda: cluster.replicas == 4, within_s=31)

    in_cluster(body)


def test_controller_sleeping_rung_is_woken_although_a_gateway_cannot_be_read() -> None:
    async def body(cluster: Cluster) -> None:
        one, two = await cluster.join("gw-1"), await cluster.join("gw-2")
        await until(lambda: bool(leaders(one, two)), within_s=3)
        two.is_readable = False
        await asyncio.sleep(2)
        one.held = 1
        await until(lambda: cluster.replicas == 1, within_s=1)
        one.held = 35  # how many more are wanted cannot be told by half of the counts
        await asyncio.sleep(10)
        assert cluster.replicas == 1

    in_cluster(body)


def test_controller_conflict_on_scale_is_read_again_and_patched() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        await until(lambda: bool(leaders(gateway)), within_s=1)
        cluster.fake.fail(2, status=409, when=lambda r: r.method == "PATCH" and r.path.endswith("/scale"))
        gateway.held = 1
        gateway.controller.wake(MODEL, 0)
        assert await until(lambda: cluster.replicas == 1, within_s=1) <= 0.05
        assert gateway.controller.num_errors["conflict"] == 2

    in_cluster(body)


def test_controller_replicas_that_somebody_else_set_are_where_it_goes_on_from() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        gateway.in_flight = 5
        await until(lambda: cluster.replicas == 1, within_s=3)
        deployment = cluster.fake.find(DEPLOYMENTS, DEPLOYMENT, namespace=NAMESPACE)
        assert deployment is not None
        deployment["spec"]["replicas"] = 3
        cluster.fake.put(deployment, manager="kubectl")
        await asyncio.sleep(20)
        assert cluster.replicas == 3  # the double goes down only when idle
        gateway.in_flight = 40
        await until(lambda: cluster.replicas == 4, within_s=1)

    in_cluster(body)


def test_controller_change_by_somebody_else_just_before_a_patch_is_not_overwritten() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        gateway.in_flight = 5
        await until(lambda: cluster.replicas == 1, within_s=3)
        await asyncio.sleep(1)
        deployment = cluster.fake.find(DEPLOYMENTS, DEPLOYMENT, namespace=NAMESPACE)
        assert deployment is not None
        deployment["spec"]["replicas"] = 3
        cluster.fake.put(deployment, manager="kubectl")
        gateway.in_flight = 15  # two would do, and the three are not known yet
        await asyncio.sleep(4)
        assert cluster.replicas == 3
        assert cluster.scale_patches() == ["gw-1"]  # the one from 0 to 1

    in_cluster(body)


def test_controller_denied_patch_names_the_rule_that_is_missing_and_is_tried_again_rarely() -> None:
    async def body(cluster: Cluster) -> None:
        assert cluster.fake.rules is not None
        allowed = list(cluster.fake.rules)
        cluster.fake.rules = [rule for rule in allowed if "deployments/scale" not in rule.resources]
        gateway = await cluster.join("gw-1")
        gateway.held = 1
        await asyncio.sleep(120)
        seen = gateway.controller.status(MODEL, 0)
        assert seen.can_wake is False
        assert "its Role lacks" in seen.detail
        assert '{apiGroups: ["apps"], resources: [deployments/scale], verbs: [get]}' in seen.detail
        assert "in namespace llm" in seen.detail
        assert gateway.controller.num_errors["forbidden"] < 12
        cluster.fake.rules = allowed
        await until(lambda: cluster.replicas == 1, within_s=61)

    in_cluster(body)


def test_controller_that_may_not_touch_the_lease_serves_and_says_so() -> None:
    async def body(cluster: Cluster) -> None:
        assert cluster.fake.rules is not None
        cluster.fake.rules = [rule for rule in cluster.fake.rules if "leases" not in rule.resources]
        gateway = await cluster.join("gw-1")
        await asyncio.sleep(5)
        assert gateway.controller.status(MODEL, 0).can_wake  # it may be a hiccup
        await asyncio.sleep(10)
        seen = gateway.controller.status(MODEL, 0)
        assert seen.can_wake is False
        assert '{apiGroups: ["coordination.k8s.io"], resources: [leases], verbs: [get]}' in seen.detail
        assert gateway.replicas == [[]]

    in_cluster(body)


def test_controller_never_writes_beside_an_autoscaler() -> None:
    async def body(cluster: Cluster) -> None:
        cluster.fake.rules = None
        cluster.fake.put(
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "keda-hpa-qwen", "namespace": NAMESPACE},
                "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": DEPLOYMENT}},
            }
        )
        gateway = await cluster.join("gw-1")
        gateway.in_flight = 35
        await asyncio.sleep(30)
        assert cluster.scale_patches() == []
        last = gateway.controller.decisions.last(DEPLOYMENT)
        assert last is not None
        assert last.effect == "left-to-others"
        assert last.problem == "HorizontalPodAutoscaler keda-hpa-qwen scales this Deployment"

    in_cluster(body, replicas=1)


def test_controller_crashing_pod_is_a_failed_rung_with_its_reason() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        await asyncio.sleep(0.1)
        cluster.workloads.crash(cluster.pod_names()[0], num_restarts=4, exit_code=137)
        await asyncio.sleep(0.1)
        seen = gateway.controller.status(MODEL, 0)
        assert (seen.phase, seen.can_wake) == (ReplicaPhase.FAILED, False)
        assert seen.detail.endswith("its process ends again and again: 4 restarts, the last time with exit code 137")

    in_cluster(body, replicas=1)


def test_controller_goes_to_sleep_and_takes_the_pod_off_the_list_at_once() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        gateway.in_flight = 1
        await until(lambda: cluster.replicas == 1, within_s=3)
        cluster.workloads.make_all_ready(DEPLOYMENT)
        await asyncio.sleep(1)
        gateway.in_flight = 0
        lasted_s = await until(lambda: cluster.replicas == 0, within_s=70)
        assert lasted_s == pytest.approx(60, abs=1.1)
        await asyncio.sleep(0.1)
        assert gateway.replicas[-1] == []
        assert status(gateway) is ReplicaPhase.DRAINING
        cluster.workloads.finish_terminations()
        await asyncio.sleep(0.1)
        assert status(gateway) is ReplicaPhase.SLEEPING

    in_cluster(body)


def test_controller_watch_that_breaks_with_lost_history_keeps_the_list_right() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        await asyncio.sleep(0.1)
        cluster.workloads.make_all_ready(DEPLOYMENT)
        await asyncio.sleep(0.1)
        assert len(gateway.replicas[-1]) == 2
        cluster.fake.end_watches(is_history_lost=True)
        await asyncio.sleep(3)
        assert len(gateway.replicas[-1]) == 2
        assert [] not in gateway.replicas[1:]  # never was it empty in between
        cluster.workloads.make_ready(cluster.pod_names()[0], is_ready=False)
        await asyncio.sleep(0.1)
        assert len(gateway.replicas[-1]) == 1

    in_cluster(body, replicas=2)


def test_controller_that_does_not_scale_only_follows() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        gateway.held = 1
        gateway.controller.wake(MODEL, 0)
        await asyncio.sleep(30)
        assert cluster.replicas == 1
        assert {call.resource.plural for call in cluster.fake.calls} == {"pods"}

    in_cluster(body, replicas=1, config=msgspec.structs.replace(CONFIG, scales=False))


def test_controller_rung_that_is_not_configured_is_unknown() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        seen = gateway.controller.status("other", 0)
        assert (seen.phase, seen.can_wake) == (ReplicaPhase.UNKNOWN, False)
        gateway.controller.wake("other", 0)

    in_cluster(body)
