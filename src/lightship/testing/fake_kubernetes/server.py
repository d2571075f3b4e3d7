"""The API server: requests in, answers out."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from lightship.kubernetes.access import ClusterAccess
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.credentials import Credentials, FixedHeaders
from lightship.kubernetes.exchange import ApiRequest
from lightship.kubernetes.resources import BUILT_IN, ApiResource, JsonObject
from lightship.ports.clock import Clock, SystemClock
from lightship.testing.fake_kubernetes.calls import Call, FakeAnswer, json_answer, understood
from lightship.testing.fake_kubernetes.discovery import discovery
from lightship.testing.fake_kubernetes.failures import ApiFailureError, expired, no_such_kind
from lightship.testing.fake_kubernetes.owners import Manager
from lightship.testing.fake_kubernetes.rbac import Rule, forbidden
from lightship.testing.fake_kubernetes.selecting import select
from lightship.testing.fake_kubernetes.store import ObjectStore
from lightship.testing.fake_kubernetes.transport import FakeExchange, serve
from lightship.testing.fake_kubernetes.watching import watch_lines
from lightship.testing.fake_kubernetes.writing import ObjectWriter


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
        self._writer = ObjectWriter(self.store, now=self.now)
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
        return self._writer.keep(resource, new, record, Manager(manager, "Update"))

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
            return json_answer(self._writer.scale(call))
        if call.part not in {"", "status"}:
            raise no_such_kind()
        return self._object_answer(call)

    def _object_answer(self, call: Call) -> FakeAnswer:
        if call.verb == "get":
            return json_answer(self._writer.shown(self._writer.record(call)))
        if call.verb == "create":
            return json_answer(self._writer.create(call), status=201)
        if call.verb == "update":
            return json_answer(self._writer.replace(call))
        return self._writer.patch(call) if call.verb == "patch" else json_answer(self._writer.delete(call))

    def _log(self, call: Call) -> FakeAnswer:
        text = self.logs.get((call.name, call.query.get("previous") == "true"), "")
        lines = text.splitlines(keepends=True)[-int(call.query.get("tailLines", "1000")) :]
        return FakeAnswer(200, "".join(lines).encode())

    def _cut_of_watches(self) -> Callable[[], bool]:
        epoch = self.watch_epoch
        return lambda: self.is_down or self.watch_epoch != epoch

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

    def _resource_of(self, api_version: str, kind: str) -> ApiResource:
        return next(r for r in self.resources.values() if (r.api_version, r.kind) == (api_version, kind))

    def now(self) -> str:
        """Time as objects carry it."""
        return datetime.fromtimestamp(self.clock.unix_s(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
