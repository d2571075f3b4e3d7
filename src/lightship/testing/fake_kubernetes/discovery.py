"""Which kinds there are."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lightship.kubernetes.resources import ApiResource, JsonObject
from lightship.testing.fake_kubernetes.failures import no_such_kind


def discovery(resources: Iterable[ApiResource], path: str) -> JsonObject | None:
    """What the server says of itself at a path; None where objects are meant."""
    if path == "/version":
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.0-fake"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = sorted({(r.group, r.version) for r in resources if r.group})
        groups = [
            {"name": group, "versions": [known], "preferredVersion": known}
            for group, version in versions
            for known in [{"groupVersion": f"{group}/{version}", "version": version}]
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    found = re.fullmatch(r"/(?:api|apis/([^/]+))/([^/]+)", path)
    if found is None:
        return None
    group, version = found[1] or "", found[2]
    known = [r for r in resources if (r.group, r.version) == (group, version)]
    if not known:
        raise no_such_kind()
    listed = [
        {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "kind": resource.kind,
            "namespaced": resource.is_namespaced,
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        }
        for resource in known
    ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": known[0].api_version,
        "resources": listed,
    }
