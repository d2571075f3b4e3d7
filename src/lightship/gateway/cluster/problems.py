"""What an API server's refusal means for whoever runs the gateway. Pure."""

from __future__ import annotations

from lightship.kubernetes.errors import (
    ForbiddenError,
    KubernetesError,
    NotFoundError,
    StatusError,
    UnauthorizedError,
    UnreachableError,
    missing_rule,
)


def problem_of(error: KubernetesError, *, namespace: str) -> str:
    """What is the matter and what to do, in one or two sentences."""
    if isinstance(error, ForbiddenError):
        rule = missing_rule(error)
        if rule is None:
            return f"the API server does not allow it: {error.message}"
        return (
            f"the gateway's service account may not {rule.verb} {rule.resource} in namespace "
            f"{rule.namespace or namespace}: its Role lacks {rule}"
        )
    if isinstance(error, UnauthorizedError):
        return "the API server does not accept the service account's token"
    if isinstance(error, NotFoundError) and error.kind:
        return f"there is no {error.kind} {error.name} in namespace {namespace}: apply the manifests"
    if isinstance(error, UnreachableError):
        return f"the API server does not answer: {error.what}"
    return str(error)


def word_for(error: KubernetesError) -> str:
    """One of a closed list of words, for metrics."""
    if isinstance(error, UnreachableError):
        return "unreachable"
    if not isinstance(error, StatusError):
        return "other"
    words = {401: "unauthorized", 403: "forbidden", 404: "not-found", 409: "conflict", 410: "gone", 429: "busy"}
    return words.get(error.code, "server-error" if error.code >= 500 else "refused")
