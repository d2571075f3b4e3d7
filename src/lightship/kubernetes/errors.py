"""What an API server, or the way to it, can answer.

ClusterAccessError (UsageError, 2)   no way in: kubeconfig, service account, plugin
KubernetesError (NetworkError, 7)
├── UnreachableError      no answer: refused, not in time, TLS, broken off
└── StatusError           the server said no: code, reason, message, causes
    ├── UnauthorizedError     401  it does not know who asks
    ├── ForbiddenError        403  it knows, and does not allow it
    ├── NotFoundError         404  no such object, namespace or kind
    ├── ConflictError         409  changed in between, exists already, or owned by another manager
    └── GoneError             410  a resourceVersion that the server no longer keeps
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from lightship.errors import NetworkError, UsageError


class ClusterAccessError(UsageError):
    """There is no way into the cluster: a kubeconfig, a service account or a plugin that does not give one."""


class KubernetesError(NetworkError):
    """A request to the API server did not do what was asked."""


class UnreachableError(KubernetesError):
    """No answer came: the connection was refused or lost, TLS failed, or it took too long."""


@dataclass(frozen=True)
class Cause:
    """One reason among several: the field it is about, a word for programs, and a sentence."""

    field: str
    reason: str
    message: str


class StatusError(KubernetesError):
    """The server answered with a `Status` object of failure.

    Args:
        code: HTTP status.
        reason: One word, `Conflict`; "" where the server gave none.
        message: The server's sentence.
        causes: Its parts.
        kind: Plural of what it is about (`deployments`), name as given in the details; "" where it says nothing.
        name: Of the object it is about.
        retry_after_s: When the server wants to be asked again; None where it does not say.
        where: The request.
    """

    def __init__(
        self,
        *,
        code: int,
        reason: str,
        message: str,
        causes: Iterable[Cause] = (),
        kind: str = "",
        name: str = "",
        retry_after_s: float | None = None,
        where: str = "",
    ) -> None:
        super().__init__(f"{message or reason or 'refused'} ({code})", where=where or None)
        self.code = code
        self.reason = reason
        self.message = message
        self.causes = tuple(causes)
        self.kind = kind
        self.name = name
        self.retry_after_s = retry_after_s


class UnauthorizedError(StatusError):
    """The server does not know who asks."""


class ForbiddenError(StatusError):
    """The server knows who asks, and its rules do not allow it."""


class NotFoundError(StatusError):
    """No such object, namespace or kind."""

    @property
    def is_missing_namespace(self) -> bool:
        """Whether the namespace is what is missing."""
        return self.kind == "namespaces"

    @property
    def is_missing_kind(self) -> bool:
        """Whether the server knows no such kind: nothing named, in an answer to a request that named something."""
        return not self.name and not self.kind


class ConflictError(StatusError):
    """The object was changed in between, exists already, or another manager owns the fields."""


class GoneError(StatusError):
    """The server no longer keeps the resourceVersion that was asked for."""


_CLASSES: dict[int, type[StatusError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
}


class _StatusCause(msgspec.Struct):
    field: str = ""
    reason: str = ""
    message: str = ""


class _StatusDetails(msgspec.Struct):
    name: str = ""
    kind: str = ""
    causes: list[_StatusCause] | None = None
    retryAfterSeconds: float = 0.0  # noqa: N815 # the name on the wire


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    code: int = 0
    details: _StatusDetails | None = None


def status_error(code: int, body: bytes | dict[str, Any], *, retry_after: str = "", where: str = "") -> StatusError:
    """The error of an answer that is no success, whatever its body is.

    Args:
        code: HTTP status.
        body: The `Status` object, as bytes or decoded; anything else (a proxy's page) is quoted in part.
        retry_after: The header of that name.
        where: The request, for people.
    """
    try:
        decode = msgspec.json.decode(body, type=_Status) if isinstance(body, bytes) else msgspec.convert(body, _Status)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        text = body[:200].decode("utf-8", "replace") if isinstance(body, bytes) else str(body)[:200]
        decode = _Status(message=" ".join(text.split()) or "an answer without a body")
    details = decode.details or _StatusDetails()
    retry_after_s = float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after) else details.retryAfterSeconds or None
    return _CLASSES.get(code, StatusError)(
        code=code,
        reason=decode.reason,
        message=decode.message,
        causes=[Cause(one.field, one.reason, one.message) for one in details.causes or ()],
        kind=details.kind,
        name=details.name,
        retry_after_s=retry_after_s,
        where=where,
    )


_FORBIDDEN = re.compile(
    r'cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)


@dataclass(frozen=True)
class MissingRule:
    """What a role would have to allow. `namespace` is "" for the whole cluster."""

    verb: str
    resource: str
    group: str
    namespace: str

    def __str__(self) -> str:
        return f'{{apiGroups: ["{self.group}"], resources: [{self.resource}], verbs: [{self.verb}]}}'


def missing_rule(error: ForbiddenError) -> MissingRule | None:
    """The rule that a refusal by RBAC asks for; None where it was refused by something else (a quota, a policy).

    Source: the sentence of `k8s.io/apiserver`, "User ... cannot VERB resource ... in API group ...".
    """
    found = _FORBIDDEN.search(error.message)
    if found is None:
        return None
    return MissingRule(found["verb"], found["resource"], found["group"], found["namespace"] or "")
