"""The API server: requests in, answers out."""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

import yaml

from lightship.kubernetes.access import ClusterAccess
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.credentials import Credentials, FixedHeaders
from lightship.kubernetes.exchange import ApiRequest
from lightship.kubernetes.resources import BUILT_IN, DEPLOYMENTS, NAMESPACES, ApiResource, JsonObject
from lightship.ports.clock import Clock, SystemClock
from lightship.testing.fake_kubernetes import owners as ownership
from lightship.testing.fake_kubernetes.calls import Call, FakeAnswer, json_answer, understood
from lightship.testing.fake_kubernetes.discovery import discovery
from lightship.testing.fake_kubernetes.failures import (
    ApiFailureError,
    changed_in_between,
    expired,
    no_such_kind,
    not_found,
)
from lightship.testing.fake_kubernetes.owners import Manager, OwnedBySomebodyElse
from lightship.testing.fake_kubernetes.rbac import Rule, forbidden
from lightship.testing.fake_kubernetes.schema import unknown_fields
from lightship.testing.fake_kubernetes.selecting import select
from lightship.testing.fake_kubernetes.store import ObjectStore, Record
from lightship.testing.fake_kubernetes.transport import FakeExchange, serve
from lightship.testing.fake_kubernetes.validation import check, fill_in
from lightship.testing.fake_kubernetes.watching import watch_lines


@dataclass
class _Trouble:
    matches: Callable[[ApiRequest], bool]
    num_left: int
    status: int
    retry_after_s: int | None


class FakeKubernetes:
    """One API server. Everything public may be set by the test at any time.

    Args:
        clock: Time stamps of objects.
        kept_changes: See `ObjectStore`.

    `is_down` closes each connection without an answer, `delay_s` holds answers back. `tokens` maps tokens to users; an
    empty mapping asks for none. `rules` are what every user may do; None allows everything. `calls` are all requests
    that were let in. `logs` holds what `pods/log` shows, by (Pod, whether the previous run is meant).
    """

    def __init__(self, *, clock: Clock | None = None, kept_changes: int = 1000) -> None:
        self.clock = clock or SystemClock()
        self.store = ObjectStore(kept_changes=kept_changes)
        self.resources = {(r.group, r.version, r.plural): r for r in BUILT_IN}
        self.is_down = False
        self.delay_s = 0.0
        self.tokens: dict[str, str] = {}
        self.rules: list[Rule] | None = None
        self.calls: list[Call] = []
        self.logs: dict[tuple[str, bool], str] = {}
        self.watch_epoch = 0
        self._troubles: list[_Trouble] = []
        for name in ("default", "kube-system"):
            self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    # What a test does from outside

    def register(self, resource: ApiResource) -> None:
        """Effects: the server knows a kind more, as if its CRD had been installed."""
        self.resources[resource.group, resource.version, resource.plural] = resource

    def fail(
        self,
        num_times: int,
        *,
        status: int,
        retry_after_s: int | None = None,
        when: Callable[[ApiRequest], bool] = lambda _: True,
    ) -> None:
        """Effects: the next so many requests that match are answered with this status."""
        self._troubles.append(_Trouble(when, num_times, status, retry_after_s))

    def end_watches(self, *, is_history_lost: bool = False) -> None:
        """Effects: all watches break off; with `is_history_lost` none can go on from where it was."""
        if is_history_lost:
            self.store.version += 1
            self.store.forget_changes()
        self.watch_epoch += 1
        self.store.wake_all()

    def put(self, obj: JsonObject, *, manager: str = "test") -> JsonObject:
        """The object as kept: made, or written over the one there is, whatever its version."""
        resource = self._resource_of(obj["apiVersion"], obj["kind"])
        new = copy.deepcopy(obj)
        metadata = new["metadata"]
        if resource.is_namespaced:
            metadata.setdefault("namespace", "default")
        record = self.store.records.get((resource, metadata.get("namespace", ""), metadata["name"]))
        return self._keep(resource, new, record, Manager(manager, "Update"))

    def find(self, resource: ApiResource, name: str, *, namespace: str = "default") -> JsonObject | None:
        """A copy of an object as it is now."""
        record = self.store.records.get((resource, namespace if resource.is_namespaced else "", name))
        return copy.deepcopy(record.obj) if record else None

    def remove(self, resource: ApiResource, name: str, *, namespace: str = "default") -> None:
        """Effects: the object is gone at once, finalizers or not."""
        self.store.remove(resource, self.store.records[resource, namespace, name].obj)

    def exchange(self) -> FakeExchange:
        """A way to this server without sockets."""
        return FakeExchange(self)

    def client(self, *, clock: Clock | None = None, token: str = "", limit_s: float = 10.0) -> KubernetesClient:
        """A client without sockets."""
        credentials: Credentials = FixedHeaders({"authorization": f"Bearer {token}"} if token else {})
        return KubernetesClient(self.exchange(), clock=clock or self.clock, credentials=credentials, limit_s=limit_s)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ClusterAccess]:
        """Listens on a free port of this machine until the block ends."""
        async with serve(self) as address:
            yield ClusterAccess(server=address, name="fake")

    # Requests

    async def handle(self, request: ApiRequest) -> FakeAnswer:
        """The answer to one request."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        try:
            self._meet_trouble(request)
            user = self._user(request)
            if (discovered := discovery(self.resources.values(), request.path)) is not None:
                return json_answer(discovered)
            call = understood(self.resources, request, user)
            self._authorize(call)
            self.calls.append(call)
            return await self._answer(call)
        except ApiFailureError as failure:
            retry_after_s = (failure.status.get("details") or {}).get("retryAfterSeconds")
            headers = {"content-type": "application/json"}
            if retry_after_s is not None:
                headers["retry-after"] = str(retry_after_s)
            return FakeAnswer(failure.code, json.dumps(failure.status).encode(), headers)

    def _meet_trouble(self, request: ApiRequest) -> None:
        for trouble in self._troubles:
            if trouble.num_left and trouble.matches(request):
                trouble.num_left -= 1
                details = {} if trouble.retry_after_s is None else {"retryAfterSeconds": trouble.retry_after_s}
                phrase = HTTPStatus(trouble.status).phrase
                raise ApiFailureError(trouble.status, phrase.replace(" ", ""), phrase, details=details)

    def _user(self, request: ApiRequest) -> str:
        if not self.tokens:
            return "system:anonymous"
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if given not in self.tokens:
            raise ApiFailureError(401, "Unauthorized", "Unauthorized")
        return self.tokens[given]

    def _authorize(self, call: Call) -> None:
        if self.rules is None:
            return
        resource = call.resource
        what = f"{resource.plural}/{call.part}" if call.part else resource.plural
        if not any(r.allows(verb=call.verb, group=resource.group, resource=what, name=call.name) for r in self.rules):
            raise forbidden(
                user=call.user,
                verb=call.verb,
                resource=resource,
                part=call.part,
                namespace=call.namespace,
                name=call.name,
            )

    async def _answer(self, call: Call) -> FakeAnswer:
        if call.verb == "watch":
            return FakeAnswer(200, lines=watch_lines(call, self.store, is_cut=self._cut_of_watches()))
        if call.verb == "list":
            return self._list(call)
        if call.part == "log":
            return self._log(call)
        if call.part == "scale":
            return json_answer(self._scale(call))
        if call.part not in {"", "status"}:
            raise no_such_kind()
        return self._object_answer(call)

    def _object_answer(self, call: Call) -> FakeAnswer:
        if call.verb == "get":
            return json_answer(self._shown(self._record(call)))
        if call.verb == "create":
            return json_answer(self._create(call), status=201)
        if call.verb == "update":
            return json_answer(self._replace(call))
        return self._patch(call) if call.verb == "patch" else json_answer(self._delete(call))

    def _log(self, call: Call) -> FakeAnswer:
        text = self.logs.get((call.name, call.query.get("previous") == "true"), "")
        lines = text.splitlines(keepends=True)[-int(call.query.get("tailLines", "1000")) :]
        return FakeAnswer(200, "".join(lines).encode())

    def _cut_of_watches(self) -> Callable[[], bool]:
        epoch = self.watch_epoch
        return lambda: self.is_down or self.watch_epoch != epoch

    def _record(self, call: Call) -> Record:
        key = (call.resource, call.namespace if call.resource.is_namespaced else "", call.name)
        record = self.store.records.get(key)
        if record is None:
            raise not_found(call.resource, call.name)
        return record

    def _list(self, call: Call) -> FakeAnswer:
        chosen = [obj for obj in self.store.objects(call.resource, call.namespace) if select(obj, call.query)]
        start, version = 0, self.store.version
        if token := call.query.get("continue"):
            start, version = (int(part) for part in token.split("-"))
            if version < self.store.oldest_version:
                raise expired(str(version))
        size = int(call.query.get("limit", "0")) or len(chosen)
        metadata: JsonObject = {"resourceVersion": str(version)}
        if start + size < len(chosen):
            metadata["continue"] = f"{start + size}-{version}"
        items = [{k: v for k, v in obj.items() if k not in {"apiVersion", "kind"}} for obj in chosen[start:][:size]]
        kind = f"{call.resource.kind}List"
        return json_answer(
            {"kind": kind, "apiVersion": call.resource.api_version, "metadata": metadata, "items": items}
        )

    def _create(self, call: Call) -> JsonObject:
        obj = self._body(call)
        self._check_identity(call, obj)
        key = (call.resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if key in self.store.records:
            message = f'{call.resource} "{key[2]}" already exists'
            details = {"name": key[2], "kind": call.resource.plural}
            raise ApiFailureError(409, "AlreadyExists", message, details=details)
        self._refuse_unknown(call, obj)
        return self._keep(call.resource, obj, None, self._manager(call, "Update"), call=call)

    def _replace(self, call: Call) -> JsonObject:
        record, obj = self._record(call), self._body(call)
        self._check_identity(call, obj)
        self._check_version(call, record, obj)
        self._refuse_unknown(call, obj)
        return self._keep(call.resource, obj, record, self._manager(call, "Update"), call=call)

    def _patch(self, call: Call) -> FakeAnswer:
        content_type = call.request.headers.get("content-type", "")
        patch = self._body(call)
        if content_type == "application/apply-patch+yaml":
            return self._apply(call, patch)
        if content_type not in {"application/merge-patch+json", "application/strategic-merge-patch+json"}:
            raise ApiFailureError(415, "UnsupportedMediaType", f"the body of the request was in {content_type}")
        record = self._record(call)
        self._check_version(call, record, patch)
        obj = _merged(copy.deepcopy(record.obj), patch)
        self._refuse_unknown(call, obj)
        return json_answer(self._keep(call.resource, obj, record, self._manager(call, "Update"), call=call))

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
        kept = self._keep(resource, obj, record, manager, call=call, owners=owners)
        return json_answer(kept, status=200 if record else 201)

    def _scale(self, call: Call) -> JsonObject:
        if call.resource != DEPLOYMENTS:
            raise no_such_kind()
        record = self._record(call)
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
            self._keep(call.resource, obj, record, manager, call=call, owners=owners)
            record = self._record(call)
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

    def _delete(self, call: Call) -> JsonObject:
        record = self._record(call)
        options = self._body(call) if call.request.body else {}
        uid = (options.get("preconditions") or {}).get("uid")
        metadata = record.obj["metadata"]
        if uid and uid != metadata["uid"]:
            raise changed_in_between(call.resource, call.name)
        if not call.is_dry_run:
            if metadata.get("finalizers") or (call.resource.kind == "Pod" and not metadata.get("deletionTimestamp")):
                obj = copy.deepcopy(record.obj)
                obj["metadata"]["deletionTimestamp"] = self.now()
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

    # Parts of writes

    def _keep(
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
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": self.now(), "generation": 1}
        elif before.get("spec") != obj.get("spec"):
            metadata["generation"] += 1
        if owners is None:
            owners = ownership.update(before or {}, obj, record.owners if record else {}, manager)
        new = Record(obj, owners)
        if before is not None and before == obj and record is not None and record.owners == owners:
            return self._shown(record)
        if call is not None and call.is_dry_run:
            metadata.setdefault("resourceVersion", "")
            return self._shown(new)
        if before is not None and metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self.store.remove(resource, before)
            return self._shown(new)
        self.store.write(resource, new)
        return self._shown(new)

    def _shown(self, record: Record) -> JsonObject:
        shown = copy.deepcopy(record.obj)
        api_version = shown["apiVersion"]
        shown["metadata"]["managedFields"] = ownership.managed_fields(
            record.owners, api_version=api_version, time=self.now()
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

    def _resource_of(self, api_version: str, kind: str) -> ApiResource:
        return next(r for r in self.resources.values() if (r.api_version, r.kind) == (api_version, kind))

    def now(self) -> str:
        """Time as objects carry it."""
        return datetime.fromtimestamp(self.clock.unix_s(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
