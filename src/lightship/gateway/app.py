"""The gateway as one ASGI app: OpenAI's surface in front of an `Engine`.

Plain ASGI without a framework: a route is one dictionary look-up, and nothing stands between a chunk and its client.

A request's life: its head is read and resolved to a rung, the stack opens a reply, the relay sends it. From then on a
client that leaves ends everything at once. Whatever happens, exactly one outcome is recorded, in `_generate`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from lightship.gateway.activation.holding import HeldEngine
from lightship.gateway.activation.keep_alive import KeptAlive
from lightship.gateway.api.openapi import openapi_json
from lightship.gateway.catalog import Address, ModelCatalog
from lightship.gateway.config import GatewayConfig
from lightship.gateway.headers import REQUEST_ID, forwarded_request_headers, take_request_id
from lightship.gateway.relay import Relay
from lightship.gateway.request_body import read_head
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.telemetry import GatewayTelemetry, RequestRecord
from lightship.gateway.tenants.authentication import Authenticator, Principal
from lightship.gateway.terms import call_terms
from lightship.gateway.translation import from_here, to_api_error
from lightship.ports.clock import Clock
from lightship.ports.engine import AttemptError, Engine, EngineCall, EngineReply, Outcome, StreamBrokenError
from lightship.serving.body import read_json_body
from lightship.serving.disconnect import CancelledWhenGone, ClientGoneError
from lightship.serving.drain import InFlight
from lightship.serving.responses import send_api_error, send_bytes, send_json
from lightship.wire.errors import (
    ApiError,
    internal_error,
    method_not_allowed,
    overloaded,
    route_not_found,
    upstream_failed,
    upstream_timed_out,
)
from lightship.wire.paths import API_PATHS, ApiPath
from lightship.wire.replies import ModelList

_log = logging.getLogger(__name__)

_MODELS_PREFIX = "/v1/models/"
_Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]


class GatewayApp:
    """The ASGI app.

    Args:
        config: Limits.
        engine: The top of the stack.
        catalog: The names it serves.
        pool: Asked for readiness only.
        telemetry: Where requests are counted.
        authenticator: Says whose a request is.
        clock: Time.
        exposition: What `/metrics` shows; by default what `telemetry` counted.
        held: Holds requests for models that wake, where somebody starts replicas.

    Concurrency: one event loop.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        engine: Engine,
        catalog: ModelCatalog,
        pool: ReplicaPool,
        telemetry: GatewayTelemetry,
        authenticator: Authenticator,
        clock: Clock,
        exposition: Callable[[], Awaitable[bytes]] | None = None,
        held: HeldEngine | None = None,
    ) -> None:
        self._held = held
        self.in_flight = InFlight()
        self._exposition = exposition or _own_exposition(telemetry)
        self._config = config
        self._dispatch = config.complete_dispatch
        self._engine = engine
        self._catalog = catalog
        self._pool = pool
        self._telemetry = telemetry
        self._authenticator = authenticator
        self._clock = clock
        self._readers: dict[str, _Endpoint] = {
            "/v1/models": self._list_models,
            "/health": self._ready,  # where vLLM has it, and so where load generators look
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
        }

    def apply(self, config: GatewayConfig) -> None:
        """Effects: requests that begin from now on meet these names and limits."""
        self._config = config
        self._dispatch = config.complete_dispatch
        self._catalog.apply(config.model_name, config.declared)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await _accept_lifespan(receive, send)
        elif scope["method"] == "POST" and (path := API_PATHS.get(scope["path"])) is not None:
            await self._generate(scope, receive, send, path)
        else:
            try:
                await self._reader(scope)(scope, receive, send)
            except ApiError as error:
                await send_api_error(send, from_here(error), headers={REQUEST_ID: take_request_id(scope)})

    def _reader(self, scope: Scope) -> _Endpoint:
        path, method = scope["path"], scope["method"]
        reader = self._readers.get(path)
        if reader is None and path.startswith(_MODELS_PREFIX):
            reader = self._show_model
        if reader is None and path not in API_PATHS:
            raise route_not_found(path)
        if reader is None or method not in {"GET", "HEAD"}:
            error = method_not_allowed(method, path)
            error.headers["allow"] = "POST" if reader is None else "GET, HEAD"
            raise error
        return reader

    async def _generate(self, scope: Scope, receive: Receive, send: Send, path: ApiPath) -> None:
        record = RequestRecord(path.path, take_request_id(scope), self._clock.monotonic_s())
        record.unix_s = self._clock.unix_s()
        relay = Relay(send, record, self._clock, ends_with_done=path.ends_with_done)
        try:
            with self.in_flight.request():
                await self._answer(scope, receive, relay, record, path)
        finally:
            # Without an outcome the server itself is being stopped and cut the request: `record_request` says failed.
            self._telemetry.record_request(record, ended_s=self._clock.monotonic_s())

    async def _answer(self, scope: Scope, receive: Receive, relay: Relay, record: RequestRecord, path: ApiPath) -> None:
        try:
            principal = self._authenticator.authenticate(scope["headers"])
            record.tenant = principal.tenant
            self._admit()
            call, address = await self._read_call(scope, receive, record, path, principal)
        except ApiError as error:
            await relay.fail(error)
            return
        except ClientDisconnect:
            relay.give_up(Outcome.CANCELLED)
            return
        try:
            async with CancelledWhenGone(scope, receive):
                await self._relay_reply(call, address, relay)
        except ClientGoneError:
            relay.give_up(Outcome.CANCELLED)

    def _admit(self) -> None:
        if self.in_flight.is_draining:
            raise overloaded("This gateway is shutting down. Try again.", reason="shutdown")
        if self.in_flight.count > self._config.max_in_flight:
            raise overloaded("Too many requests are under way. Try again.", reason="saturated")

    async def _read_call(
        self, scope: Scope, receive: Receive, record: RequestRecord, path: ApiPath, principal: Principal
    ) -> tuple[EngineCall, Address]:
        config = self._config
        body = await read_json_body(
            scope, receive, limit_bytes=config.body_limit_bytes, timeout_s=config.body_timeout_s
        )
        head = read_head(body)
        model = head.model or ""
        address = self._catalog.resolve(model, principal.may_use)
        record.model = address.name
        ladder = self._dispatch.ladders.get(address.served_model)
        terms = call_terms(
            scope["headers"],
            head,
            path=path,
            num_body_bytes=len(body),
            ladder=ladder,
            config=self._dispatch,
            tenant=principal.tenant,
            default_priority=principal.default_priority(self._importance_of),
            max_importance=principal.max_importance(self._importance_of),
            now_s=record.started_s,
        )
        record.priority = terms.priority
        if ladder is not None and path.generates:
            record.promised_ttft_s, record.promised_tpot_s = ladder.ttft_s, ladder.tpot_s
            record.is_streamed = bool(head.stream)
        call = EngineCall(
            path=path.path,
            body=body,
            request_id=record.request_id,
            model=model,
            is_streaming=bool(head.stream) and path.is_streamable,
            headers=forwarded_request_headers(scope),
            rung=address.rung,
            is_pinned=address.is_pinned,
            wants_usage=head.stream_options is not None and head.stream_options.include_usage,
            served_model=address.served_model,
            terms=terms,
        )
        return call, address

    async def _relay_reply(self, call: EngineCall, address: Address, relay: Relay) -> None:
        """Effects: sends the answer or the failure; only a cancellation comes out."""
        ready_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(self._config.timeouts.total_s), self._open(call, relay) as reply:
                await relay.send_reply(reply, degraded=address.degraded, ready_s=ready_s)
        except AttemptError as error:
            _log.warning("request %s: %s (%s)", call.request_id, error.message, error.failure)
            await relay.fail(to_api_error(error))
        except ApiError as error:
            await relay.fail(error)
        except StreamBrokenError as error:
            _log.warning("request %s broke after the first byte: %s", call.request_id, error)
            await relay.fail(upstream_failed("The answer broke off: the model's engine failed."))
        except TimeoutError:
            limit_s = self._config.timeouts.total_s
            await relay.fail(upstream_timed_out(f"The answer was not complete within {limit_s:g} s."))
        except Exception:  # noqa: BLE001 # a bug of ours must end as an answer to this client, and touch no other
            _log.exception("request %s", call.request_id)
            await relay.fail(internal_error(call.request_id))

    def _open(self, call: EngineCall, relay: Relay) -> AbstractAsyncContextManager[EngineReply]:
        """The opening of the call; a stream gets signs of life while it is held."""
        held, opening = self._held, self._engine.open(call)
        if held is None or not call.is_streaming:
            return opening
        return KeptAlive(
            opening,
            send_sign=relay.send_sign_of_life,
            is_held=lambda: held.is_waking(call),
            interval_s=held.config.keep_alive_s,
        )

    def _importance_of(self, priority: str) -> int | None:
        one = self._dispatch.priority(priority)
        return None if one is None else one.importance

    async def _list_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        principal = self._authenticator.authenticate(scope["headers"])
        cards = [card for name, card in self._catalog.cards.items() if principal.may_use(name)]
        await send_json(send, msgspec.json.encode(ModelList(data=cards)))

    async def _show_model(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        principal = self._authenticator.authenticate(scope["headers"])
        card = self._catalog.card(scope["path"].removeprefix(_MODELS_PREFIX), principal.may_use)
        await send_json(send, msgspec.json.encode(card))

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send_json(send, b'{"status":"live"}')

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        if self.in_flight.is_draining:
            raise overloaded("This gateway is shutting down.", reason="shutdown")
        # a ladder serves without a rung that is down: whoever insists on that one is told
        if not self._pool.has_ready() and not self._can_wake():
            raise overloaded("No engine is ready.", reason="no-variant")
        await send_json(send, b'{"status":"ready"}')

    def _can_wake(self) -> bool:
        """Whether a request for some model would be held: a gateway whose models sleep is ready for requests."""
        held = self._held
        return held is not None and any(held.can_serve(model, 0) for model in self._dispatch.ladders)

    async def _openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send_json(send, openapi_json())

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send_bytes(send, await self._exposition(), headers={"content-type": CONTENT_TYPE_PLAIN_1_0_0})


def _own_exposition(telemetry: GatewayTelemetry) -> Callable[[], Awaitable[bytes]]:
    async def exposition() -> bytes:
        return telemetry.exposition()

    return exposition


async def _accept_lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
