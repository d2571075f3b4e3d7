"""Pods as phases, with the words that people read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.gateway.cluster.harness import CONFIG, POOL

from lightship.gateway.cluster.pods import rung_status
from lightship.gateway.cluster.replicas import replicas_of
from lightship.kubernetes.pods import common_selector, pod_state
from lightship.ports.replica_control import ReplicaPhase

READY, STARTING, FAILED, DRAINING, SLEEPING = (
    ReplicaPhase.READY,
    ReplicaPhase.STARTING,
    ReplicaPhase.FAILED,
    ReplicaPhase.DRAINING,
    ReplicaPhase.SLEEPING,
)


def pod(name: str = "p", *, ip: str = "10.0.0.1", is_leaving: bool = False, **status: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": dict(POOL.selector)}
    if is_leaving:
        metadata["deletionTimestamp"] = "2026-11-27T10:00:00Z"
    return {"metadata": metadata, "status": {"phase": "Running", "podIP": ip, **status}}


def conditions(*, ready: bool = False, **scheduled: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"type": "Ready", "status": "True" if ready else "False"}]
    return found + ([{"type": "PodScheduled", "status": "False", **scheduled}] if scheduled else [])


def waiting(reason: str, message: str = "", **others: Any) -> list[dict[str, Any]]:
    return [{"name": "main", "state": {"waiting": {"reason": reason, "message": message}}, **others}]


OOM: dict[str, Any] = {"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "restartCount": 2}


@pytest.mark.parametrize(
    ("given", "phase", "words", "is_coming"),
    [
        (pod(conditions=conditions(ready=True)), READY, "", False),
        (pod(conditions=conditions(ready=True), is_leaving=True), DRAINING, "it is being deleted", False),
        (pod(phase="Pending", ip=""), STARTING, "it waits for a node", True),
        (
            pod(ip="", containerStatuses=waiting("ContainerCreating")),
            STARTING,
            "its container is being made (ContainerCreating)",
            True,
        ),
        (pod(containerStatuses=[{"state": {"running": {}}}]), STARTING, "it loads the model", True),
        (
            pod(containerStatuses=[{"state": {"running": {}}, **OOM}]),
            STARTING,
            "it loads, after 2 restarts, the last time it took more memory than its limit (OOMKilled)",
            True,
        ),
        (
            pod(containerStatuses=waiting("CrashLoopBackOff", **OOM)),
            FAILED,
            "its process ends again and again: 2 restarts, the last time it took more memory than its limit "
            "(OOMKilled)",
            False,
        ),
        (
            pod(ip="", containerStatuses=waiting("ImagePullBackOff", "no such image")),
            FAILED,
            "its image cannot be pulled (ImagePullBackOff): no such image",
            False,
        ),
        (
            pod(ip="", initContainerStatuses=waiting("CreateContainerConfigError", 'secret "x" not found')),
            FAILED,
            'it names a ConfigMap, Secret or key that is not there (CreateContainerConfigError): secret "x" not found',
            False,
        ),
        (
            pod(
                ip="", conditions=conditions(reason="Unschedulable", message="0/2 nodes: 2 Insufficient nvidia.com/gpu")
            ),
            FAILED,
            "no node takes it: 0/2 nodes: 2 Insufficient nvidia.com/gpu",
            True,  # a node may be added
        ),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), FAILED, "it is over: low on memory", False),
    ],
)
def test_pod_state_says_phase_and_why(given: dict[str, Any], phase: ReplicaPhase, words: str, is_coming: bool) -> None:
    state = pod_state(given)
    assert (state.phase, state.detail, state.is_coming) == (phase, words, is_coming)


def test_pod_state_long_message_is_cut() -> None:
    state = pod_state(pod(containerStatuses=waiting("ErrImagePull", "x" * 10_000)))
    assert len(state.detail) == 400


def status(*pods: dict[str, Any], wanted: int | None = None, starting_for_s: float = 0.0) -> Any:
    return rung_status(map(pod_state, pods), POOL, wanted_replicas=wanted, starting_for_s=starting_for_s)


def test_rung_status_one_ready_replica_makes_it_ready() -> None:
    crashed = pod(containerStatuses=waiting("CrashLoopBackOff", **OOM))
    seen = status(pod(conditions=conditions(ready=True)), pod(ip="", phase="Pending"), crashed)
    assert (seen.phase, seen.num_ready, seen.num_starting) == (READY, 1, 1)


def test_rung_status_asked_for_but_not_made_yet_is_starting() -> None:
    seen = status(wanted=2)
    assert (seen.phase, seen.num_starting) == (STARTING, 2)
    assert status(wanted=0).phase is SLEEPING
    assert status(wanted=None).phase is SLEEPING


def test_rung_status_unschedulable_pod_may_still_be_waited_for() -> None:
    seen = status(pod(ip="", conditions=conditions(reason="Unschedulable", message="full")), wanted=1)
    assert (seen.phase, seen.can_wake, seen.num_starting) == (FAILED, True, 1)
    assert seen.detail == "p: no node takes it: full"


def test_rung_status_remaining_time_is_the_usual_then_the_budget() -> None:
    starting = pod(ip="", phase="Pending")
    # 20 s usually, 120 s at most.
    assert status(starting, starting_for_s=5.0).start_remaining_s == 15.0
    assert status(starting, starting_for_s=30.0).start_remaining_s == 90.0
    assert status(starting, starting_for_s=500.0).start_remaining_s == 1.0


def test_replicas_of_lists_ready_pods_in_order_with_addresses() -> None:
    pods = [
        pod("b", ip="fd00::7", conditions=conditions(ready=True)),
        pod("a", ip="10.0.0.2", conditions=conditions(ready=True)),
        pod("leaving", conditions=conditions(ready=True), is_leaving=True),
        pod("starting", conditions=conditions()),
        {**pod("other", conditions=conditions(ready=True)), "metadata": {"name": "other", "labels": {"app": "x"}}},
    ]
    found = replicas_of(pods, CONFIG)
    assert [(one.name, one.base_url) for one in found] == [
        ("a", "http://10.0.0.2:8000"),
        ("b", "http://[fd00::7]:8000"),
    ]


def test_replicas_of_takes_what_the_pool_says_of_its_engines() -> None:
    pool = msgspec.structs.replace(POOL, rung=2, context_length=4096, max_concurrency=8, variant_digest="sha256:1")
    config = msgspec.structs.replace(CONFIG, pools=(pool,))
    [replica] = replicas_of([pod(conditions=conditions(ready=True))], config)
    assert (replica.rung, replica.context_length, replica.max_concurrency) == (2, 4096, 8)
    assert replica.variant_digest == "sha256:1"


def test_common_selector_of_selectors_with_nothing_in_common_is_everything() -> None:
    assert common_selector([{"a": "1"}, {"b": "1"}]) == ""
    assert common_selector([{"part": "x", "name": "a"}, {"name": "b", "part": "x"}]) == "part=x"
