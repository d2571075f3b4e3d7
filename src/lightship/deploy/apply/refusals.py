"""What a server's refusal means for whoever applies, and what they can do. Pure."""

from __future__ import annotations

import re

from lightship.deploy.apply.manifests import ObjectKey
from lightship.deploy.apply.options import ApplyError
from lightship.kubernetes.errors import (
    ConflictError,
    ForbiddenError,
    KubernetesError,
    NotFoundError,
    StatusError,
    UnauthorizedError,
    UnreachableError,
    missing_rule,
)

# Who brings the kinds of a group. The longest ending that fits.
_BROUGHT_BY = {
    "keda.sh": "KEDA",
    "http.keda.sh": "KEDA's HTTP add-on",
    "serving.knative.dev": "Knative Serving",
    "serving.kserve.io": "KServe",
    "ray.io": "KubeRay",
    "leaderworkerset.x-k8s.io": "LeaderWorkerSet (LWS)",
    "gateway.networking.k8s.io": "the Gateway API",
    "inference.networking.k8s.io": "the Gateway API inference extension",
    "llm-d.ai": "llm-d",
    "monitoring.coreos.com": "the Prometheus Operator",
}
_UNDECLARED = re.compile(r"\.?(\S+): field not declared in schema")
_UNKNOWN = re.compile(r'unknown field "([^"]+)"')
_MANAGER = re.compile(r'conflict with "([^"]+)"')


def refusal(error: KubernetesError, key: ObjectKey, *, verb: str = "applied") -> ApplyError:
    """The error of an object that could not be applied (or deleted, or read)."""
    what = f"{key} was not {verb}"
    if isinstance(error, StatusError):
        return _refused(error, key, what)
    hint = "Check the context of the kubeconfig, and whether the cluster is up."
    if isinstance(error, UnreachableError):
        return ApplyError(f"{what}: the API server does not answer: {error.what}", where=error.where, hint=hint)
    return ApplyError(f"{what}: {error}")


def _refused(error: StatusError, key: ObjectKey, what: str) -> ApplyError:
    if isinstance(error, UnauthorizedError):
        return ApplyError(f"{what}: the cluster does not know who you are", hint="Log in again, and try again.")
    if isinstance(error, ForbiddenError):
        return _forbidden(error, what)
    if isinstance(error, NotFoundError):
        return _not_found(error, key, what)
    return _conflict(error, what) if isinstance(error, ConflictError) else _invalid(error, what)


def missing_kind(key: ObjectKey) -> ApplyError:
    """The error of a kind that the cluster does not have."""
    group = key.api_version.rpartition("/")[0]
    who = _BROUGHT_BY.get(group)
    hint = f"Install {who} first, or leave this object out." if who else "Install what defines it, or leave it out."
    return ApplyError(f"the cluster has no kind {key.kind} in {key.api_version} (for {key})", hint=hint)


def missing_namespace(namespace: str) -> ApplyError:
    """The error of a namespace that is not there."""
    return ApplyError(
        f"the namespace {namespace} does not exist",
        hint=f"Create it (kubectl create namespace {namespace}), or pass --create-namespace.",
    )


def _forbidden(error: ForbiddenError, what: str) -> ApplyError:
    rule = missing_rule(error)
    if rule is None:
        return ApplyError(f"{what}: the cluster's rules do not allow it: {error.message}")
    where = f"namespace {rule.namespace}" if rule.namespace else "the whole cluster"
    return ApplyError(
        f"{what}: you may not {rule.verb} {rule.resource} in {where}", hint=f"Ask for a role with the rule {rule}."
    )


def _not_found(error: NotFoundError, key: ObjectKey, what: str) -> ApplyError:
    if error.is_missing_namespace:
        return missing_namespace(error.name or key.namespace)
    if error.is_missing_kind:
        return missing_kind(key)
    return ApplyError(f"{what}: {error.message}")


def _conflict(error: ConflictError, what: str) -> ApplyError:
    owned = [cause for cause in error.causes if cause.reason == "FieldManagerConflict"]
    if not owned:
        return ApplyError(f"{what}: {error.message}", hint="Somebody else changes it, too: try again.")
    fields = []
    for cause in owned:
        manager = _MANAGER.search(cause.message)
        fields.append(f"{cause.field} belongs to {manager[1] if manager else 'somebody else'}")
    return ApplyError(
        f"{what}: {'; '.join(fields)}, with another value",
        hint="Let them be set in one place only, or take them over with --force-conflicts.",
    )


def _invalid(error: StatusError, what: str) -> ApplyError:
    unknown = _UNDECLARED.findall(error.message) or _UNKNOWN.findall(error.message)
    if unknown:
        return ApplyError(
            f"{what}: this version of the cluster knows no field {', '.join(unknown)}",
            hint="Correct the name, or leave the field out for this cluster.",
        )
    if error.causes:
        faults = "; ".join(
            f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in error.causes
        )
        is_immutable = any("immutable" in cause.message for cause in error.causes)
        hint = "That cannot be changed in place: delete the object, and apply again." if is_immutable else None
        return ApplyError(f"{what}: {faults}", hint=hint)
    return ApplyError(f"{what}: {error}")
