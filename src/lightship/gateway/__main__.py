"""`python -m lightship.gateway CONFIG.json [--exit-with-parent]`: one gateway process."""

from __future__ import annotations

import logging
import resource
import socket
import sys
from pathlib import Path

import uvloop

from lightship.errors import LightshipError, UsageError
from lightship.gateway.config import GatewayConfig, read_config
from lightship.gateway.runtime import running_gateway
from lightship.observability.logs import configure_logging
from lightship.serving.parent import FLAG, stop_with_parent
from lightship.serving.scheduling import yield_to_computation
from lightship.serving.server import ServerSettings, bind_socket, serve

_log = logging.getLogger("lightship.gateway")


def main(arguments: list[str]) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code."""
    configure_logging(component="gateway")
    try:
        if len(arguments) not in {1, 2} or arguments[1:] not in ([], [FLAG]):
            hint = f"Run python -m lightship.gateway CONFIG.json [{FLAG}]."
            raise UsageError("one configuration file is expected", hint=hint)
        config = read_config(Path(arguments[0]))
        listener = bind_socket(config.host, config.port)
        _allow_many_connections()
        yield_to_computation()
        uvloop.run(_run(config, listener, exits_with_parent=FLAG in arguments))
    except LightshipError as error:
        _log.error("%s", error)  # a user's mistake needs no traceback
        return error.exit_code
    return 0


async def _run(config: GatewayConfig, listener: socket.socket, *, exits_with_parent: bool) -> None:
    settings = ServerSettings(host=config.host, port=config.port, drain_timeout_s=config.drain_timeout_s)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if exits_with_parent:
        stop_with_parent()
    async with running_gateway(config) as app:
        await serve(
            app, listener, settings, on_started=lambda: _log.info("listening on %s", url), in_flight=app.in_flight
        )
        _log.info("stopped")


def _allow_many_connections() -> None:
    """Effects: raises the soft limit of open files to the hard one: a request takes two sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
