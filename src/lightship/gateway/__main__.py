"""`python -m lightship.gateway CONFIG.json [--exit-with-parent]`: one gateway, of one process or several.

`--worker CONTROL LISTENER`, two file descriptors, is how a supervisor starts its processes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from pathlib import Path

import uvloop

from lightship.errors import LightshipError, UsageError
from lightship.gateway.config import GatewayConfig, read_config
from lightship.gateway.operation.supervisor import WORKER_FLAG, Supervisor
from lightship.gateway.operation.worker import allow_many_connections, make_state_folder, run_alone, run_supervised
from lightship.observability.logs import configure_logging
from lightship.serving.parent import FLAG, stop_with_parent
from lightship.serving.scheduling import yield_to_computation
from lightship.serving.server import bind_socket

_log = logging.getLogger("lightship.gateway")


def main(arguments: list[str]) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code."""
    configure_logging(component="gateway")
    try:
        allow_many_connections()
        yield_to_computation()
        if arguments[:1] == [WORKER_FLAG]:
            _run_worker(arguments[1:])
        else:
            _run_gateway(arguments)
    except LightshipError as error:
        _log.error("%s", error)  # a user's mistake needs no traceback
        return error.exit_code
    return 0


def _run_worker(arguments: list[str]) -> None:
    control, listener = (socket.socket(fileno=int(text)) for text in arguments)
    with listener:
        uvloop.run(run_supervised(control, listener))


def _run_gateway(arguments: list[str]) -> None:
    if len(arguments) not in {1, 2} or arguments[1:] not in ([], [FLAG]):
        hint = f"Run python -m lightship.gateway CONFIG.json [{FLAG}]."
        raise UsageError("one configuration file is expected", hint=hint)
    path, exits_with_parent = Path(arguments[0]), FLAG in arguments
    config = read_config(path)
    listener = bind_socket(config.host, config.port)
    make_state_folder(config)
    if config.server.workers == 1:
        uvloop.run(run_alone(config, path, listener, exits_with_parent=exits_with_parent))
        _log.info("stopped")
    else:
        asyncio.run(_supervise(config, path, listener, exits_with_parent=exits_with_parent))


async def _supervise(config: GatewayConfig, path: Path, listener: socket.socket, *, exits_with_parent: bool) -> None:
    if exits_with_parent:
        stop_with_parent()
    supervisor = Supervisor(config, listener, load=lambda: asyncio.to_thread(read_config, path), files=[path])
    await supervisor.run()
    _log.info("stopped")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
