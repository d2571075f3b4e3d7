"""The server's ways to say no, as `Status` objects."""

from __future__ import annotations

from collections.abc import Sequence

from lightship.kubernetes.resources import ApiResource, JsonObject


class ApiFailureError(Exception):
    """A request that is answered with a `Status` of failure."""

    def __init__(self, code: int, reason: str, message: str, *, details: JsonObject | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "code": code,
        }
        if reason:
            self.status["reason"] = reason
        if details is not None:
            self.status["details"] = details


def not_found(resource: ApiResource, name: str) -> ApiFailureError:
    """404 of an object."""
    details = {"name": name, "kind": resource.plural} | ({"group": resource.group} if resource.group else {})
    return ApiFailureError(404, "NotFound", f'{resource} "{name}" not found', details=details)


def no_such_kind() -> ApiFailureError:
    """404 of a path that no kind has."""
    return ApiFailureError(404, "NotFound", "the server could not find the requested resource", details={})


def changed_in_between(resource: ApiResource, name: str) -> ApiFailureError:
    """409 of a write with a version that is not the latest."""
    return ApiFailureError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource} "{name}": the object has been modified; please apply your '
        "changes to the latest version and try again",
        details={"name": name, "group": resource.group, "kind": resource.plural},
    )


def invalid(resource: ApiResource, name: str, causes: Sequence[tuple[str, str, str]]) -> ApiFailureError:
    """422 with (field, reason, message) for each fault."""
    text = ", ".join(f"{field}: {message}" for field, _, message in causes)
    return ApiFailureError(
        422,
        "Invalid",
        f'{resource.kind}.{resource.group} "{name}" is invalid: {text}',
        details={
            "name": name,
            "group": resource.group,
            "kind": resource.kind,
            "causes": [{"field": field, "reason": reason, "message": message} for field, reason, message in causes],
        },
    )


def expired(version: str) -> ApiFailureError:
    """410 of a version that is no longer kept."""
    return ApiFailureError(410, "Expired", f"too old resource version: {version}")
