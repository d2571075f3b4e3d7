"""The worker's ASGI app: routes, limits, outcomes. Every request ends in exactly one outcome and one answer."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from lightship.engines.openvino.call import Call
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.openvino.endpoints import Endpoints
from lightship.engines.openvino.generator import Generator, GeneratorState
from lightship.engines.openvino.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE
from lightship.engines.openvino.metrics import WorkerMetrics
from lightship.engines.openvino.scoring import Scorer
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

logger = logging.getLogger(__name__)

_MODEL_PREFIX = "/v1/models/"
_BODY_TIMEOUT_S = 30.0

Work = Callable[[Call, bytes], Awaitable[None]]
Question = Callable[[Call], Awaitable[None]]


class WorkerApp:
    """ASGI app of one worker.

    Args:
        pipeline_pid: The pipeline process, for its memory.
        in_flight: Counts generation requests; draining refuses new ones.
    """

    def __init__(
        self,
        *,
        config: OpenVinoWorkerConfig,
        endpoints: Endpoints,
        generator: Generator,
        scorer: Scorer,
        metrics: WorkerMetrics,
        in_flight: InFlight,
        clock: Clock,
        pipeline_pid: int,
    ) -> None:
        self._config = config
        self._endpoints = endpoints
        self._generator = generator
        self._scorer = scorer
        self._metrics = metrics
        self._in_flight = in_flight
        self._clock = clock
        self._pipeline_pid = pipeline_pid
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
            "/health": self._ready,  # where vLLM has it, and so where load generators look
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._send_metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "lifespan":
            await _run_lifespan(receive, send)
            return
        arrived_s = self._clock.monotonic_s()
        call = Call(scope, receive, send, variant_digest=self._config.variant_digest, arrived_s=arrived_s)
        work = self._generation.get(scope["path"])
        if work is not None and scope["method"] == "POST":
            outcome = await self._generate(call, work)
            self._metrics.count_request(outcome)
            return
        try:
            await self._answer_plainly(call)
        except ApiError as error:
            await call.send_error(error)
        except ClientDisconnect:
            pass  # nobody is there to tell
        except Exception:  # the outermost frame of a request: our bug must be an answer, not a broken connection
            logger.exception("request %s failed", call.request_id)
            await call.send_error(internal_error(call.request_id))

    async def _generate(self, call: Call, work: Work) -> Outcome:
        try:
            if self._in_flight.is_draining:
                raise overloaded("This server is shutting down.", reason="shutdown")
            with self._in_flight.request():
                await self._generate_within_limits(call, work)
        except ApiError as error:
            await call.send_error(error)
            return Outcome.REJECTED if error.status in (400, 404, 408, 413, 415, 503) else Outcome.FAILED
        except ClientDisconnect:
            return Outcome.CANCELLED
        except Exception:  # as above
            logger.exception("request %s failed", call.request_id)
            await call.send_error(internal_error(call.request_id))
            return Outcome.FAILED
        return Outcome.SERVED

    async def _generate_within_limits(self, call: Call, work: Work) -> None:
        body = await self._read_body(call)
        limit_s = self._config.request_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await call.run_while_connected(lambda: work(call, body))
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
            await self._drain(call)
        elif path in self._generation:
            _require_method(method, ("POST",), path)
        elif path == EMBEDDINGS:
            raise path_not_supported(path, reason="this engine serves generation models, which make no embeddings.")
        else:
            raise route_not_found(path)

    async def _live(self, call: Call) -> None:
        if self._generator.state is GeneratorState.BROKEN:
            raise ApiError(503, self._generator.failure, type="server_error", code="engine_failed", origin="engine")
        await _send_status(call, "live")

    async def _ready(self, call: Call) -> None:
        if self._in_flight.is_draining:
            raise overloaded("This server is shutting down.", reason="shutdown")
        if self._generator.state is not GeneratorState.READY:
            raise overloaded(f"The model is {self._generator.state.value}.", reason=self._generator.state.value)
        await _send_status(call, "ready")

    async def _drain(self, call: Call) -> None:
        self._in_flight.start_draining()
        await call.send_json(msgspec.json.encode({"status": "draining", "in_flight": self._in_flight.count}))

    async def _send_metrics(self, call: Call) -> None:
        body = self._metrics.render(
            load=self._generator.load, scorer=self._scorer.cost, process_ids=(os.getpid(), self._pipeline_pid)
        )
        await call.send_whole(body, content_type=METRICS_CONTENT_TYPE)


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
