"""Objects made, changed and deleted as requests ask for it."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable

import yaml

from lightship.kubernetes.resources import DEPLOYMENTS, NAMESPACES, ApiResource, JsonObject
from lightship.testing.fake_kubernetes import owners as ownership
from lightship.testing.fake_kubernetes.calls import Call, FakeAnswer, json_answer
from lightship.testing.fake_kubernetes.failures import (
    ApiFailureError,
    changed_in_between,
    no_such_kind,
    not_found,
)
from lightship.testing.fake_kubernetes.owners import Manager, OwnedBySomebodyElse
from lightship.testing.fake_kubernetes.schema import unknown_fields
from lightship.testing.fake_kubernetes.store import ObjectStore, Record
from lightship.testing.fake_kubernetes.validation import check, fill_in


class ObjectWriter:
    """Writes to a store.

    Args:
        store: Keeps the objects.
        now: Time as objects carry it.
    """

    def __init__(self, store: ObjectStore, *, now: Callable[[], str]) -> None:
        self.store = store
        self._now = now

    def record(self, call: Call) -> Record:
        """The object a request is about. Raises: ApiFailureError: there is none."""
        key = (call.resource, call.namespace if call.resource.is_namespaced else "", call.name)
        record = self.store.records.get(key)
        if record is None:
            raise not_found(call.resource, call.name)
        return record

    def create(self, call: Call) -> JsonObject:
        """The new object."""
        obj = self._body(call)
        self._check_identity(call, obj)
        key = (call.resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if key in self.store.records:
            message = f'{call.resource} "{key[2]}" already exists'
            details = {"name": key[2], "kind": call.resource.plural}
            raise ApiFailureError(409, "AlreadyExists", message, details=details)
        self._refuse_unknown(call, obj)
        return self.keep(call.resource, obj, None, self._manager(call, "Update"), call=call)

    def replace(self, call: Call) -> JsonObject:
        """The object in place of the one there was."""
        record, obj = self.record(call), self._body(call)
        self._check_identity(call, obj)
        self._check_version(call, record, obj)
        self._refuse_unknown(call, obj)
        return self.keep(call.resource, obj, record, self._manager(call, "Update"), call=call)

    def patch(self, call: Call) -> FakeAnswer:
        """The answer to a patch of any kind."""
        content_type = call.request.headers.get("content-type", "")
        patch = self._body(call)
        if content_type == "application/apply-patch+yaml":
            return self._apply(call, patch)
        if content_type not in {"application/merge-patch+json", "application/strategic-merge-patch+json"}:
            raise ApiFailureError(415, "UnsupportedMediaType", f"the body of the request was in {content_type}")
        record = self.record(call)
        self._check_version(call, record, patch)
        obj = _merged(copy.deepcopy(record.obj), patch)
        self._refuse_unknown(call, obj)
        return json_answer(self.keep(call.resource, obj, record, self._manager(call, "Update"), call=call))

    def _apply(self, call: Call, patch: JsonObject) -> FakeAnswer:
        self._check_identity(call, patch)
        resource = call.resource
        if unknown := unknown_fields(resource.kind, patch):
            where = f"{call.namespace}/{call.name}; {resource.api_version}, Kind={resource.kind}"
            faults = [f".{path}: field not declared in schema" for path in unknown]
            text = faults[0] if len(faults) == 1 else "errors:\n  " + "\n  ".join(faults)
            raise ApiFailureError(500, "", f"failed to create typed patch object ({where}): {text}")
        record = self.store.records.get((resource, patch["metadata"].get("namespace", ""), call.name))
        obj = copy.deepcopy(record.obj) if record else {"apiVersion": patch["apiVersion"], "kind": resource.kind}
        obj.setdefault("metadata", {"name": call.name})
        if resource.is_namespaced:
            obj["metadata"]["namespace"] = call.namespace
        manager = self._manager(call, "Apply")
        if "fieldManager" not in call.query:
            raise ApiFailureError(422, "Invalid", "fieldManager: Required value: is required for apply patch")
        try:
            owners = ownership.apply(
                obj,
                record.owners if record else {},
                patch,
                manager,
                is_forced=call.query.get("force") == "true",
            )
        except OwnedBySomebodyElse as error:
            raise _owned(error, resource.api_version) from error
        kept = self.keep(resource, obj, record, manager, call=call, owners=owners)
        return json_answer(kept, status=200 if record else 201)

    def scale(self, call: Call) -> JsonObject:
        """The `scale` part of a Deployment, changed where the request says so."""
        if call.resource != DEPLOYMENTS:
            raise no_such_kind()
        record = self.record(call)
        if call.verb in {"patch", "update"}:
            body = self._body(call)
            self._check_version(call, record, body)
            replicas = body.get("spec", {}).get("replicas")
            if not isinstance(replicas, int) or replicas < 0:
                raise ApiFailureError(422, "Invalid", "spec.replicas: must be greater than or equal to 0")
            obj = copy.deepcopy(record.obj)
            obj["spec"]["replicas"] = replicas
            manager = Manager(self._manager(call, "Update").name, "Update", "scale")
            owners = ownership.update(record.obj, obj, record.owners, manager)
            if replicas == 0:  # as real servers do: nobody owns a zero that came by way of `scale`
                owners = {one: paths - {("spec", "replicas")} for one, paths in owners.items()}
            self.keep(call.resource, obj, record, manager, call=call, owners=owners)
            record = self.record(call)
        obj = record.obj
        names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        labels = obj["spec"].get("selector", {}).get("matchLabels", {})
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {name: obj["metadata"][name] for name in names},
            "spec": {"replicas": obj["spec"].get("replicas", 0)},
            "status": {
                "replicas": obj.get("status", {}).get("replicas", 0),
                "selector": ",".join(f"{k}={v}" for k, v in labels.items()),
            },
        }

    def delete(self, call: Call) -> JsonObject:
        """What the server says of a deletion."""
        record = self.record(call)
        options = self._body(call) if call.request.body else {}
        uid = (options.get("preconditions") or {}).get("uid")
        metadata = record.obj["metadata"]
        if uid and uid != metadata["uid"]:
            raise changed_in_between(call.resource, call.name)
        if not call.is_dry_run:
            if metadata.get("finalizers") or (call.resource.kind == "Pod" and not metadata.get("deletionTimestamp")):
                obj = copy.deepcopy(record.obj)
                obj["metadata"]["deletionTimestamp"] = self._now()
                self.store.write(call.resource, Record(obj, record.owners))
                if not metadata.get("finalizers") and options.get("gracePeriodSeconds") == 0:
                    self.store.remove(call.resource, obj)
            else:
                self.store.remove(call.resource, record.obj)
                self._collect(metadata["uid"])
                if call.resource == NAMESPACES:
                    self._empty(call.name)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": {"name": call.name}}

    def _collect(self, owner_uid: str) -> None:
        """Effects: what the object owned is gone too."""
        for (resource, _, _), record in list(self.store.records.items()):
            references = record.obj["metadata"].get("ownerReferences", ())
            if any(one["uid"] == owner_uid for one in references):
                self.store.remove(resource, record.obj)
                self._collect(record.obj["metadata"]["uid"])

    def _empty(self, namespace: str) -> None:
        for (resource, where, _), record in list(self.store.records.items()):
            if where == namespace:
                self.store.remove(resource, record.obj)

    def keep(
        self,
        resource: ApiResource,
        obj: JsonObject,
        record: Record | None,
        manager: Manager,
        *,
        call: Call | None = None,
        owners: ownership.Owners | None = None,
    ) -> JsonObject:
        """The object as kept: server's fields filled in, checked, owners noted; unchanged where nothing changed."""
        before = record.obj if record else None
        fill_in(resource, obj)
        metadata = obj["metadata"]
        metadata.pop("managedFields", None)
        server_fields = ("uid", "creationTimestamp", "resourceVersion", "generation", "deletionTimestamp")
        for name in server_fields:
            metadata.pop(name, None)
            if before is not None and name in before["metadata"]:
                metadata[name] = before["metadata"][name]
        check(resource, obj, before)
        if before is None:
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": self._now(), "generation": 1}
        elif before.get("spec") != obj.get("spec"):
            metadata["generation"] += 1
        if owners is None:
            owners = ownership.update(before or {}, obj, record.owners if record else {}, manager)
        new = Record(obj, owners)
        if before is not None and before == obj and record is not None and record.owners == owners:
            return self.shown(record)
        if call is not None and call.is_dry_run:
            metadata.setdefault("resourceVersion", "")
            return self.shown(new)
        if before is not None and metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self.store.remove(resource, before)
            return self.shown(new)
        self.store.write(resource, new)
        return self.shown(new)

    def shown(self, record: Record) -> JsonObject:
        """An object as clients see it."""
        shown = copy.deepcopy(record.obj)
        api_version = shown["apiVersion"]
        shown["metadata"]["managedFields"] = ownership.managed_fields(
            record.owners, api_version=api_version, time=self._now()
        )
        return shown

    def _body(self, call: Call) -> JsonObject:
        try:
            body = yaml.safe_load(call.request.body)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ApiFailureError(400, "BadRequest", f"error decoding: {error}") from error
        if not isinstance(body, dict):
            raise ApiFailureError(400, "BadRequest", "the object provided is unrecognized")
        return body

    def _check_identity(self, call: Call, obj: JsonObject) -> None:
        resource = call.resource
        if obj.get("kind") != resource.kind or obj.get("apiVersion") != resource.api_version:
            message = f"{obj.get('apiVersion')} {obj.get('kind')} is not {resource.api_version} {resource.kind}"
            raise ApiFailureError(400, "BadRequest", message)
        metadata = obj.setdefault("metadata", {})
        if call.name and metadata.get("name", call.name) != call.name:
            message = f"the name of the object ({metadata['name']}) does not match the name on the URL ({call.name})"
            raise ApiFailureError(400, "BadRequest", message)
        if not metadata.get("name"):
            raise ApiFailureError(422, "Invalid", "metadata.name: Required value: name or generateName is required")
        if not resource.is_namespaced:
            return
        if metadata.setdefault("namespace", call.namespace) != call.namespace:
            message = "the namespace of the provided object does not match the namespace sent on the request"
            raise ApiFailureError(400, "BadRequest", message)
        if (NAMESPACES, "", call.namespace) not in self.store.records:
            raise not_found(NAMESPACES, call.namespace)

    def _check_version(self, call: Call, record: Record, given: JsonObject) -> None:
        version = (given.get("metadata") or {}).get("resourceVersion")
        if version and version != record.obj["metadata"]["resourceVersion"]:
            raise changed_in_between(call.resource, call.name)

    def _refuse_unknown(self, call: Call, obj: JsonObject) -> None:
        unknown = unknown_fields(call.resource.kind, obj)
        if unknown and call.query.get("fieldValidation") == "Strict":
            faults = ", ".join(f'unknown field "{path}"' for path in unknown)
            message = f'{call.resource.kind} in version "{call.resource.version}" cannot be handled as a '
            message += f"{call.resource.kind}: strict decoding error: {faults}"
            raise ApiFailureError(400, "BadRequest", message)

    def _manager(self, call: Call, operation: str) -> Manager:
        agent = call.request.headers.get("user-agent", "unknown").split("/")[0]
        return Manager(call.query.get("fieldManager", agent), operation, call.part)


def _merged(target: JsonObject, patch: JsonObject) -> JsonObject:
    """RFC 7386."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            old = target.get(name)
            target[name] = _merged(old if isinstance(old, dict) else {}, value)
        else:
            target[name] = value
    return target


def _owned(error: OwnedBySomebodyElse, api_version: str) -> ApiFailureError:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{manager.name}"'
            + (f' with subresource "{manager.subresource}"' if manager.subresource else "")
            + f" using {api_version}",
            "field": ownership.shown(path),
        }
        for manager, path in error.conflicts
    ]
    number = f"{len(causes)} conflict" + ("s" if len(causes) > 1 else "")
    text = ", ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    return ApiFailureError(409, "Conflict", f"Apply failed with {number}: {text}", details={"causes": causes})
