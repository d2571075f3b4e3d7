"""The simulated worker's ASGI app: routes, limits, outcomes, faults. Every request ends in exactly one outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from lightship.engines.openvino.call import Call
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.endpoints import Endpoints
from lightship.engines.simulated.faults import FaultDraws, FaultPlan, spell_rules
from lightship.engines.simulated.faulty_call import FaultyCall, InjectedBreakError
from lightship.engines.simulated.metrics import CONTENT_TYPE, SimulatedMetrics
from lightship.engines.simulated.runner import Runner
from lightship.ports.clock import Clock
from lightship.ports.engine import Outcome
from lightship.serving.body import read_json_body
from lightship.serving.drain import InFlight
from lightship.wire.errors import (
    ApiError,
    internal_error,
    method_not_allowed,
    overloaded,
    path_not_supported,
    route_not_found,
    upstream_timed_out,
)
from lightship.wire.paths import CHAT_COMPLETIONS, COMPLETIONS, DETOKENIZE, EMBEDDINGS, TOKENIZE
from lightship.wire.requests import decode_body

logger = logging.getLogger(__name__)

FAULTS_PATH = "/simulated/faults"
_MODEL_PREFIX = "/v1/models/"
_BODY_TIMEOUT_S = 30.0

Work = Callable[[Call, bytes], Awaitable[None]]
Question = Callable[[Call], Awaitable[None]]


class SimulatedApp:
    """ASGI app of one worker.

    Args:
        ready_at_s: On the clock; the load takes until then.
        in_flight: Counts generation requests; draining refuses new ones.
    """

    def __init__(
        self,
        *,
        config: SimulatedWorkerConfig,
        endpoints: Endpoints,
        runner: Runner,
        metrics: SimulatedMetrics,
        in_flight: InFlight,
        clock: Clock,
        ready_at_s: float,
    ) -> None:
        self._config = config
        self._runner = runner
        self._endpoints = endpoints
        self._metrics = metrics
        self._in_flight = in_flight
        self._clock = clock
        self._ready_at_s = ready_at_s
        self._draws = FaultDraws(config.faults)
        self._generation: dict[str, Work] = {
            COMPLETIONS: endpoints.completions,
            CHAT_COMPLETIONS: endpoints.chat_completions,
        }
        self._bodies: dict[str, Work] = {
            prefix + path: work
            for prefix in ("", "/v1")
            for path, work in ((TOKENIZE, endpoints.tokenize), (DETOKENIZE, endpoints.detokenize))
        }
        self._questions: dict[str, Question] = {
            "/v1/models": endpoints.models,
            "/health": self._ready,
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._send_metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "lifespan":
            await _run_lifespan(receive, send)
            return
        work = self._generation.get(scope["path"])
        if work is not None and scope["method"] == "POST":
            self._metrics.count_request(await self._generate(self._faulty_or_not(scope, receive, send), work))
            return
        call = self._call(scope, receive, send)
        try:
            await self._answer_plainly(call)
        except ApiError as error:
            await call.send_error(error)
        except ClientDisconnect:
            pass  # nobody is there to tell
        except Exception:  # the outermost frame of a request: our bug must be an answer, not a broken connection
            logger.exception("request %s failed", call.request_id)
            await call.send_error(internal_error(call.request_id))

    def _call(self, scope: Scope, receive: Receive, send: Send) -> Call:
        return Call(
            scope,
            receive,
            send,
            variant_digest=self._config.variant_digest,
            arrived_s=self._clock.monotonic_s(),
        )

    def _faulty_or_not(self, scope: Scope, receive: Receive, send: Send) -> Call:
        rule = self._draws.draw()
        if rule is None:
            return self._call(scope, receive, send)
        self._metrics.count_fault(rule.kind)
        return FaultyCall(
            scope,
            receive,
            send,
            variant_digest=self._config.variant_digest,
            arrived_s=self._clock.monotonic_s(),
            rule=rule,
            clock=self._clock,
        )

    async def _generate(self, call: Call, work: Work) -> Outcome:
        try:
            if self._in_flight.is_draining:
                raise overloaded("This server is shutting down.", reason="shutdown")
            self._check_loaded()
            with self._in_flight.request():
                await self._generate_within_limits(call, work)
        except ApiError as error:
            await call.send_error(error)
            return Outcome.FAILED if error.status in (500, 502, 504) else Outcome.REJECTED
        except InjectedBreakError:
            return Outcome.FAILED
        except ClientDisconnect:
            return Outcome.CANCELLED
        except Exception:  # the outermost frame of a request: our bug must be an answer, not a broken connection
            logger.exception("request %s failed", call.request_id)
            await call.send_error(internal_error(call.request_id))
            return Outcome.FAILED
        return Outcome.SERVED

    async def _generate_within_limits(self, call: Call, work: Work) -> None:
        body = await self._read_body(call)

        async def answer() -> None:
            if isinstance(call, FaultyCall):
                await call.before_work()
            await work(call, body)

        limit_s = self._config.request_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await call.run_while_connected(answer)
        except TimeoutError as error:
            raise upstream_timed_out(f"The answer was not complete within {limit_s:g} s.") from error

    async def _read_body(self, call: Call) -> bytes:
        return await read_json_body(
            call.scope, call.receive, limit_bytes=self._config.body_limit_bytes, timeout_s=_BODY_TIMEOUT_S
        )

    async def _answer_plainly(self, call: Call) -> None:
        path, method = call.scope["path"], call.scope["method"]
        if path in self._questions or path.startswith(_MODEL_PREFIX):
            _require_method(method, ("GET", "HEAD"), path)
            if path in self._questions:
                await self._questions[path](call)
            else:
                await self._endpoints.model(call, path.removeprefix(_MODEL_PREFIX))
        elif path in self._bodies:
            _require_method(method, ("POST",), path)
            await self._bodies[path](call, await self._read_body(call))
        elif path == "/drain":
            _require_method(method, ("POST",), path)
            self._in_flight.start_draining()
            await call.send_json(msgspec.json.encode({"status": "draining", "in_flight": self._in_flight.count}))
        elif path == FAULTS_PATH and self._config.is_fault_admin:
            _require_method(method, ("GET", "HEAD", "POST"), path)
            await self._fault_admin(call, method)
        elif path in self._generation:
            _require_method(method, ("POST",), path)
        elif path == EMBEDDINGS:
            raise path_not_supported(path, reason="this engine serves generation models, which make no embeddings.")
        else:
            raise route_not_found(path)

    async def _fault_admin(self, call: Call, method: str) -> None:
        """Shows the fault plan, or replaces it by the body (`{"rules": []}` ends all faults)."""
        if method == "POST":
            self._draws = FaultDraws(decode_body(await self._read_body(call), FaultPlan))
            logger.warning("faults from now on: %s", spell_rules(self._draws.plan.rules))
        plan = self._draws.plan
        await call.send_json(
            msgspec.json.encode({"rules": plan.rules, "seed": plan.seed, "num_hits": self._draws.num_hits})
        )

    async def _live(self, call: Call) -> None:
        await _send_status(call, "live")

    async def _ready(self, call: Call) -> None:
        if self._in_flight.is_draining:
            raise overloaded("This server is shutting down.", reason="shutdown")
        self._check_loaded()
        await _send_status(call, "ready")

    def _check_loaded(self) -> None:
        left_s = self._ready_at_s - self._clock.monotonic_s()
        if left_s > 0:
            raise overloaded("The model is still loading.", reason="starting", retry_after_s=left_s)

    async def _send_metrics(self, call: Call) -> None:
        await call.send_whole(self._metrics.render(self._runner), content_type=CONTENT_TYPE)


async def _send_status(call: Call, status: str) -> None:
    await call.send_json(msgspec.json.encode({"status": status}))


def _require_method(method: str, allowed: tuple[str, ...], path: str) -> None:
    if method not in allowed:
        error = method_not_allowed(method, path)
        error.headers["allow"] = ", ".join(allowed)
        raise error


async def _run_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
