"""What is wished for, and the errors of not getting it."""

from __future__ import annotations

from dataclasses import dataclass

from lightship.errors import EngineError, NetworkError

MANAGED_BY, OURS = "app.kubernetes.io/managed-by", "lightship"


class ApplyError(NetworkError):
    """The cluster did not take what it was to take; `what` says which object and why."""


class RolloutError(EngineError):
    """What was applied does not come to serve; `what` says which Pod and why."""


@dataclass(frozen=True)
class ApplyOptions:
    """How manifests are applied.

    Args:
        set_name: What the manifests are known by together: the inventory's name.
        namespace: For objects that name none, and for the inventory.
        creates_namespace: Whether a namespace that is missing is made.
        forces_conflicts: Whether fields that other managers own are taken over.
        prunes: Whether what a former apply made, and these manifests lack, is deleted.
        prunes_volumes: Whether that goes for PersistentVolumeClaims, too: what is in them is lost.
        waits: Whether to return only when everything serves.
        wait_limit_s: Longest wait; None takes the longest progress deadline of the Deployments and a minute.
        patience_s: How long a Pod may be in a state that does not mend itself before the wait is given up.
    """

    set_name: str
    namespace: str
    creates_namespace: bool = False
    forces_conflicts: bool = False
    prunes: bool = False
    prunes_volumes: bool = False
    waits: bool = True
    wait_limit_s: float | None = None
    patience_s: float = 60.0


@dataclass(frozen=True)
class DeleteOptions:
    """How a deployment is taken away.

    Args:
        set_name: See `ApplyOptions`.
        namespace: See `ApplyOptions`.
        deletes_volumes: Whether PersistentVolumeClaims go, too: what is in them is lost.
        deletes_namespace: Whether a Namespace among the manifests goes, with everything else that is in it.
        waits: Whether to return only when everything is gone.
        wait_limit_s: Longest wait.
    """

    set_name: str
    namespace: str
    deletes_volumes: bool = False
    deletes_namespace: bool = False
    waits: bool = True
    wait_limit_s: float = 300.0
