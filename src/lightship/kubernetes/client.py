"""Requests to one API server: each with a time limit, each answer an object or an error that says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import msgspec

from lightship import __version__
from lightship.kubernetes.access import ClusterAccess
from lightship.kubernetes.credentials import Credentials, FixedHeaders
from lightship.kubernetes.errors import NotFoundError, StatusError, UnreachableError, status_error
from lightship.kubernetes.exchange import ApiAnswer, ApiRequest, Exchange
from lightship.kubernetes.resources import ApiResource, JsonObject, built_in
from lightship.ports.clock import Clock

FIELD_MANAGER = "lightship"
# A list of some thousand Pods is a few tens of megabytes; the answer that never ends must not fill the memory.
_MOST_ANSWER_BYTES = 64 * 2**20
_PAGE_SIZE = 500
_MAX_TRIES_WHEN_BUSY = 4
_USER_AGENT = f"lightship/{__version__}"


@dataclass(frozen=True)
class Listing:
    """The objects of a collection, and the version from which a watch goes on."""

    items: tuple[JsonObject, ...]
    resource_version: str


class KubernetesClient:
    """Calls to one server.

    Args:
        exchange: Carries requests; closed with the client.
        credentials: Who asks; what was refused is asked for anew, once.
        clock: For the pauses that a busy server asks for.
        limit_s: Longest time of one call, pauses included.
        field_manager: The name that owns the fields this client sets.

    Concurrency: one event loop, any number of tasks.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        clock: Clock,
        credentials: Credentials | None = None,
        limit_s: float = 10.0,
        field_manager: str = FIELD_MANAGER,
    ) -> None:
        self._exchange = exchange
        self._credentials = credentials or FixedHeaders()
        self._clock = clock
        self._limit_s = limit_s
        self._field_manager = field_manager
        self._resources: dict[tuple[str, str], ApiResource] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.aclose()

    async def get(self, resource: ApiResource, name: str, *, namespace: str = "", subresource: str = "") -> JsonObject:
        """One object, or a part of it (`scale`). Raises: KubernetesError, here and in all other calls."""
        return await self._object("GET", resource.path(namespace=namespace, name=name, subresource=subresource))

    async def find(self, resource: ApiResource, name: str, *, namespace: str = "") -> JsonObject | None:
        """One object, or None where there is none (nor its namespace)."""
        try:
            return await self.get(resource, name, namespace=namespace)
        except NotFoundError as error:
            if error.is_missing_kind:
                raise
            return None

    async def list(
        self,
        resource: ApiResource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        most_items: int = 20_000,
    ) -> Listing:
        """All objects of a kind, page by page. Raises: KubernetesError: also where there are more than `most_items`."""
        items: list[JsonObject] = []
        query = _selectors(label_selector, field_selector)
        query["limit"] = str(_PAGE_SIZE)
        while True:
            page = await self._object("GET", resource.path(namespace=namespace), query=query)
            items += [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"]]
            metadata = page.get("metadata", {})
            if len(items) > most_items:
                raise UnreachableError(
                    f"there are more than {most_items} {resource}", where=namespace, hint="Select fewer by label."
                )
            if not metadata.get("continue"):
                return Listing(tuple(items), metadata.get("resourceVersion", ""))
            query["continue"] = metadata["continue"]

    async def create(self, resource: ApiResource, obj: Mapping[str, Any], *, namespace: str = "") -> JsonObject:
        """The object as the server keeps it, defaults filled in. Raises: ConflictError: it exists."""
        query = {"fieldManager": self._field_manager, "fieldValidation": "Strict"}
        return await self._object("POST", resource.path(namespace=namespace), query=query, body=obj)

    async def replace(
        self, resource: ApiResource, name: str, obj: Mapping[str, Any], *, namespace: str = "", limit_s: float = 0.0
    ) -> JsonObject:
        """The object in place of the one there is. Raises: ConflictError: its resourceVersion is not the latest."""
        query = {"fieldManager": self._field_manager}
        path = resource.path(namespace=namespace, name=name)
        return await self._object("PUT", path, query=query, body=obj, limit_s=limit_s)

    async def merge_patch(
        self,
        resource: ApiResource,
        name: str,
        patch: Mapping[str, Any],
        *,
        namespace: str = "",
        subresource: str = "",
        limit_s: float = 0.0,
    ) -> JsonObject:
        """The object with a JSON merge patch (RFC 7386) laid over it.

        Raises: ConflictError: the patch names a resourceVersion that is not the latest.
        """
        return await self._object(
            "PATCH",
            resource.path(namespace=namespace, name=name, subresource=subresource),
            query={"fieldManager": self._field_manager},
            body=patch,
            content_type="application/merge-patch+json",
            limit_s=limit_s,
        )

    async def apply(
        self,
        resource: ApiResource,
        obj: Mapping[str, Any],
        *,
        namespace: str = "",
        is_forced: bool = False,
        is_dry_run: bool = False,
    ) -> JsonObject:
        """The object after a server-side apply under strict validation.

        Raises: ConflictError: another manager owns fields with other values, and `is_forced` is not set.
        """
        query = {
            "fieldManager": self._field_manager,
            "force": "true" if is_forced else "false",
            "fieldValidation": "Strict",
        }
        if is_dry_run:
            query["dryRun"] = "All"
        return await self._object(
            "PATCH",
            resource.path(namespace=namespace, name=obj["metadata"]["name"]),
            query=query,
            body=obj,
            content_type="application/apply-patch+yaml",  # JSON is YAML
        )

    async def delete(
        self, resource: ApiResource, name: str, *, namespace: str = "", uid: str = "", in_foreground: bool = True
    ) -> None:
        """Effects: the object is gone, or going: with finalizers or a grace period it stays for a while.

        Args:
            resource: Its kind.
            name: Its name.
            namespace: Its namespace.
            uid: Deletes this very object, and none of the same name that was made in between.
            in_foreground: What it owns goes first, so that its own end is the end of all.
        """
        body: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions"}
        body["propagationPolicy"] = "Foreground" if in_foreground else "Background"
        if uid:
            body["preconditions"] = {"uid": uid}
        await self._object("DELETE", resource.path(namespace=namespace, name=name), body=body)

    async def log(
        self, name: str, *, namespace: str, container: str = "", is_previous: bool = False, tail_lines: int = 20
    ) -> str:
        """The last lines that a container of a Pod wrote; with `is_previous` those of the run before."""
        query = {"tailLines": str(tail_lines), "limitBytes": str(64 * 2**10)}
        if container:
            query["container"] = container
        if is_previous:
            query["previous"] = "true"
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"
        body = await self._bytes("GET", path, query=query)
        return body.decode("utf-8", "replace")

    async def resource_of(self, api_version: str, kind: str) -> ApiResource:
        """Where objects of a kind are kept; asked of the server where it is not known.

        Raises: NotFoundError: the server has no such kind.
        """
        known = built_in(api_version, kind) or self._resources.get((api_version, kind))
        if known is not None:
            return known
        group, _, version = api_version.rpartition("/")
        path = f"/apis/{api_version}" if group else f"/api/{version}"
        for one in (await self._object("GET", path)).get("resources", ()):
            if "/" not in one["name"]:
                self._resources[api_version, one["kind"]] = ApiResource(
                    group, version, one["kind"], one["name"], is_namespaced=one["namespaced"]
                )
        if (api_version, kind) not in self._resources:
            raise NotFoundError(
                code=404, reason="NotFound", message=f"the server has no kind {kind} in {api_version}", where=path
            )
        return self._resources[api_version, kind]

    @asynccontextmanager
    async def watching(
        self,
        resource: ApiResource,
        *,
        resource_version: str,
        namespace: str = "",
        label_selector: str = "",
        lasts_s: int = 270,
    ) -> AsyncIterator[AsyncIterator[JsonObject]]:
        """The changes of a collection since a version, as the server's events, until it ends the watch.

        The server is told to end it after `lasts_s`; a connection that is silent for longer than that is given up.

        Raises: GoneError: the version is too old: list again. UnreachableError: it broke off.
        """
        query = _selectors(label_selector, "") | {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(lasts_s),
        }
        request = ApiRequest("GET", resource.path(namespace=namespace), tuple(query.items()))
        async with (
            self._answer(request, head_limit_s=self._limit_s) as answer,
            aclosing(_events(answer, limit_s=lasts_s + self._limit_s, where=str(request))) as events,
        ):
            yield events

    async def _object(self, method: str, path: str, **options: Any) -> JsonObject:
        body = await self._bytes(method, path, **options)
        try:
            decoded = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnreachableError(
                "the answer is no JSON: a proxy, or another server, answered", where=f"{method} {path}"
            ) from error
        if not isinstance(decoded, dict):
            raise UnreachableError("the answer is no object of the Kubernetes API", where=f"{method} {path}")
        return decoded

    async def _bytes(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        limit_s: float = 0.0,
    ) -> bytes:
        encoded = b"" if body is None else msgspec.json.encode(body)
        headers = {"content-type": content_type} if encoded else {}
        request = ApiRequest(method, path, tuple((query or {}).items()), headers, encoded)
        limit_s = limit_s or self._limit_s
        try:
            async with asyncio.timeout(limit_s), self._answer(request, head_limit_s=limit_s) as answer:
                return await _whole(answer, where=str(request))
        except TimeoutError as error:
            raise UnreachableError(f"no answer within {limit_s:g} s", where=str(request)) from error

    @asynccontextmanager
    async def _answer(self, request: ApiRequest, *, head_limit_s: float) -> AsyncIterator[ApiAnswer]:
        """The answer to a request that was accepted, after as many tries as its refusals allow."""
        has_been_refused, num_tries = False, 0
        while True:
            num_tries += 1
            headers = {
                "accept": "application/json",
                "user-agent": _USER_AGENT,
                **request.headers,
                **await self._credentials.headers(),
            }
            attempt = ApiRequest(request.method, request.path, request.query, headers, request.body)
            try:
                async with _HeadLimit(self._exchange.open(attempt), head_limit_s, where=str(request)) as answer:
                    if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                        raise await _refusal(answer, where=str(request))
                    yield answer
                    return
            except StatusError as error:
                if error.where != str(request) or error.code not in _WORTH_ANOTHER_TRY:
                    raise
                if error.code == HTTPStatus.UNAUTHORIZED:
                    if has_been_refused:
                        raise
                    has_been_refused = True
                    self._credentials.reject()
                elif error.retry_after_s is None or num_tries >= _MAX_TRIES_WHEN_BUSY:
                    raise
                else:
                    await self._clock.sleep(error.retry_after_s)


# A request that was turned away before anything was done for it.
_WORTH_ANOTHER_TRY = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS})


class _HeadLimit:
    """The context of an answer, of which the head must come in time."""

    def __init__(self, opening: AbstractAsyncContextManager[ApiAnswer], limit_s: float, *, where: str) -> None:
        self._opening = opening
        self._limit_s = limit_s
        self._where = where

    async def __aenter__(self) -> ApiAnswer:
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._opening.__aenter__()
        except TimeoutError as error:
            raise UnreachableError(f"no answer within {self._limit_s:g} s", where=self._where) from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._opening.__aexit__(kind, error, trace)


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in selectors.items() if value}


async def _whole(answer: ApiAnswer, *, where: str) -> bytes:
    pieces: list[bytes] = []
    num_bytes = 0
    async for piece in answer.pieces():
        pieces.append(piece)
        num_bytes += len(piece)
        if num_bytes > _MOST_ANSWER_BYTES:
            raise UnreachableError(f"the answer has more than {_MOST_ANSWER_BYTES} bytes", where=where)
    return b"".join(pieces)


async def _refusal(answer: ApiAnswer, *, where: str) -> StatusError:
    body = await _whole(answer, where=where)
    return status_error(answer.status, body, retry_after=answer.headers.get("retry-after", ""), where=where)


async def _events(answer: ApiAnswer, *, limit_s: float, where: str) -> AsyncGenerator[JsonObject, None]:
    """One event per line. `limit_s` bounds the silence between two pieces."""
    rest = b""
    pieces = aiter(answer.pieces())
    while True:
        try:
            async with asyncio.timeout(limit_s):
                piece = await anext(pieces, None)
        except TimeoutError as error:
            raise UnreachableError(f"nothing came within {limit_s:g} s", where=where) from error
        if piece is None:
            return
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MOST_ANSWER_BYTES:
            raise UnreachableError("an event that does not end", where=where)
        for line in filter(None, lines):
            try:
                event = msgspec.json.decode(line)
                kind, obj = event["type"], event["object"]
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
                raise UnreachableError("a line that is no event of a watch", where=where) from error
            if kind == "ERROR":
                raise status_error(int(obj.get("code", 500)), obj, where=f"{where} (watch)")
            yield event


def client_of(access: ClusterAccess, *, clock: Clock, limit_s: float = 10.0) -> KubernetesClient:
    """A client of the cluster that `access` leads to."""
    return KubernetesClient(access.exchange(), clock=clock, credentials=access.credentials, limit_s=limit_s)
