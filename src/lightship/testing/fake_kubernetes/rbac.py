"""Who may do what: rules that add up, as roles do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightship.kubernetes.resources import ApiResource, JsonObject
from lightship.testing.fake_kubernetes.failures import ApiFailureError


@dataclass(frozen=True)
class Rule:
    """One rule of a role; no `resource_names` allows all names."""

    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    resource_names: tuple[str, ...] = ()

    def allows(self, *, verb: str, group: str, resource: str, name: str) -> bool:
        """Whether it covers a request. `resource` may name a part of an object, as in `deployments/scale`."""
        return (
            _covers(self.api_groups, group)
            and _covers(self.resources, resource)
            and _covers(self.verbs, verb)
            and (not self.resource_names or name in self.resource_names)
        )


def rules_of(role: JsonObject) -> list[Rule]:
    """The rules of a Role manifest."""
    return [
        Rule(
            tuple(rule["apiGroups"]),
            tuple(rule["resources"]),
            tuple(rule["verbs"]),
            tuple(rule.get("resourceNames", ())),
        )
        for rule in role["rules"]
    ]


def _covers(listed: Sequence[str], one: str) -> bool:
    return "*" in listed or one in listed


def forbidden(*, user: str, verb: str, resource: ApiResource, part: str, namespace: str, name: str) -> ApiFailureError:
    """403 in the words of a real server."""
    what = f"{resource.plural}/{part}" if part else resource.plural
    subject = f'{resource} "{name}" is forbidden' if name else f"{resource} is forbidden"
    where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    return ApiFailureError(
        403,
        "Forbidden",
        f'{subject}: User "{user}" cannot {verb} resource "{what}" in API group "{resource.group}"{where}',
        details={"name": name, "group": resource.group, "kind": resource.plural},
    )
