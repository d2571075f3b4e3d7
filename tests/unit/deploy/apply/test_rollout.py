"""How far a Deployment has come, by its status."""

from __future__ import annotations

from typing import Any

import pytest

from lightship.deploy.apply.rollout import RolloutPhase, rollout

GOING, DONE, FAILED = RolloutPhase.GOING, RolloutPhase.DONE, RolloutPhase.FAILED
AT_REST = {"observedGeneration": 4, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}


@pytest.mark.parametrize(
    ("changes", "phase", "detail"),
    [
        ({}, DONE, "3 of 3 Pods are ready"),
        ({"observedGeneration": 3}, GOING, "the cluster has not looked at it yet"),
        ({"updatedReplicas": 1}, GOING, "1 of 3 new Pods were made"),
        ({"replicas": 4}, GOING, "1 old Pods are still there"),
        ({"availableReplicas": 2}, GOING, "2 of 3 Pods are ready"),
        (
            {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]},
            FAILED,
            "its progress deadline has passed",
        ),
        (
            {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: gpus"}]},
            FAILED,
            "exceeded quota: gpus",
        ),
        ({"conditions": [{"type": "Available", "status": "True"}]}, DONE, "3 of 3 Pods are ready"),
        # What a former generation came to says nothing of this one.
        (
            {
                "observedGeneration": 3,
                "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}],
            },
            GOING,
            "the cluster has not looked at it yet",
        ),
    ],
)
def test_rollout_stands_where_the_status_says(changes: dict[str, Any], phase: RolloutPhase, detail: str) -> None:
    deployment = {"metadata": {"generation": 4}, "spec": {"replicas": 3}, "status": {**AT_REST, **changes}}
    seen = rollout(deployment, [])
    assert (seen.phase, seen.detail) == (phase, detail)


def test_rollout_of_a_deployment_that_sleeps_is_done() -> None:
    deployment = {"metadata": {"generation": 1}, "spec": {"replicas": 0}, "status": {"observedGeneration": 1}}
    assert rollout(deployment, []).phase is DONE


def test_rollout_names_pods_that_do_not_mend_themselves() -> None:
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}}
    pod = {"metadata": {"name": "p"}, "status": {"phase": "Pending", "containerStatuses": [waiting]}}
    deployment = {"metadata": {"generation": 4}, "spec": {"replicas": 3}, "status": {**AT_REST, "availableReplicas": 2}}
    [stuck] = rollout(deployment, [pod]).stuck
    assert (stuck.name, stuck.detail) == ("p", "its image cannot be pulled (ErrImagePull): denied")
