"""Puts the HTTP half of a worker together and runs it."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess

import uvloop

from lightship.engines.openvino.answers import Answerer
from lightship.engines.openvino.app import WorkerApp
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.openvino.endpoints import Endpoints
from lightship.engines.openvino.generator import Generator
from lightship.engines.openvino.metrics import WorkerMetrics
from lightship.engines.openvino.model_info import read_model_info
from lightship.engines.openvino.scoring import Scorer
from lightship.engines.openvino.tokens import ModelTokenizer
from lightship.errors import EngineError
from lightship.observability.logs import configure_logging
from lightship.ports.clock import SystemClock
from lightship.serving.drain import InFlight
from lightship.serving.parent import stop_this_process, stop_with_parent
from lightship.serving.server import ServerSettings, bind_socket, serve

logger = logging.getLogger(__name__)


def run_worker(
    config: OpenVinoWorkerConfig,
    pipeline: subprocess.Popen[bytes],
    connection: socket.socket,
    *,
    exits_with_parent: bool,
) -> int:
    """Serves until SIGTERM, SIGINT, the end of the parent, or the end of the pipeline; the exit status.

    Raises: LightshipError: the port is taken, or the model's folder is not usable.
    """
    configure_logging(component="openvino-worker")
    listener = bind_socket(config.host, config.port)
    try:
        info = read_model_info(config)
        tokenizer = ModelTokenizer(config.folder)
    except BaseException:
        listener.close()
        raise
    generator = Generator(
        connection=connection,
        decode=tokenizer.decode_batch,
        max_sequences=config.max_sequences,
        max_waiting=config.max_waiting_requests,
    )
    clock = SystemClock()
    metrics = WorkerMetrics(config.model_name)
    scorer = Scorer(config, vocab_size=info.vocab_size, max_waiting=config.max_waiting_requests)
    answerer = Answerer(generator=generator, scorer=scorer, tokenizer=tokenizer, metrics=metrics, clock=clock)
    endpoints = Endpoints(config=config, info=info, tokenizer=tokenizer, answerer=answerer, clock=clock)
    in_flight = InFlight()
    app = WorkerApp(
        config=config,
        endpoints=endpoints,
        generator=generator,
        scorer=scorer,
        metrics=metrics,
        in_flight=in_flight,
        clock=clock,
        pipeline_pid=pipeline.pid,
    )
    settings = ServerSettings(config.host, config.port, drain_timeout_s=config.drain_timeout_s)
    uvloop.run(_serve(app, listener, settings, generator, in_flight, exits_with_parent=exits_with_parent))
    if generator.failure:
        raise EngineError(f"the model's process failed: {generator.failure}", where=config.folder)
    return 0


async def _serve(
    app: WorkerApp,
    listener: socket.socket,
    settings: ServerSettings,
    generator: Generator,
    in_flight: InFlight,
    *,
    exits_with_parent: bool,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_run_generator(generator))
        if exits_with_parent:
            stop_with_parent()
        await serve(app, listener, settings, in_flight=in_flight)
        generator.close()


async def _run_generator(generator: Generator) -> None:
    await generator.run()
    if generator.failure:
        logger.error("the model's process failed: %s", generator.failure)
        stop_this_process()
