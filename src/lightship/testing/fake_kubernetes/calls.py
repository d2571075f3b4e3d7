"""Requests as the server understands them, and its answers."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import msgspec

from lightship.kubernetes.exchange import ApiRequest
from lightship.kubernetes.resources import ApiResource, JsonObject
from lightship.testing.fake_kubernetes.failures import no_such_kind

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass
class FakeAnswer:
    """Status, headers and body; `lines` in place of the body where it goes on."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    lines: AsyncGenerator[bytes, None] | None = None


@dataclass(frozen=True)
class Call:
    """One request, understood."""

    verb: str
    resource: ApiResource
    namespace: str
    name: str
    part: str
    request: ApiRequest
    query: Mapping[str, str]
    user: str

    @property
    def is_dry_run(self) -> bool:
        """Whether nothing is to be kept."""
        return self.query.get("dryRun") == "All"


def understood(resources: Mapping[tuple[str, str, str], ApiResource], request: ApiRequest, user: str) -> Call:
    """What a request asks for. Raises: ApiFailureError: the path leads to no kind."""
    found = _PATH.fullmatch(request.path)
    resource = (
        resources.get((found["group"] or "", found["version"] or found["core"], found["plural"])) if found else None
    )
    if found is None or resource is None:
        raise no_such_kind()
    query = dict(request.query)
    verb = _VERBS.get(request.method, "")
    if request.method == "GET":
        verb = "watch" if query.get("watch") in {"true", "1"} else "get" if found["name"] else "list"
    return Call(
        verb,
        resource,
        found["namespace"] or "",
        found["name"] or "",
        found["part"] or "",
        request,
        query,
        user,
    )


def json_answer(obj: JsonObject, *, status: int = 200) -> FakeAnswer:
    """An answer with an object."""
    return FakeAnswer(status, msgspec.json.encode(obj), {"content-type": "application/json"})
