"""Ports of one deployment: each is taken once, on every platform, so that all of it can run on one machine."""

from __future__ import annotations

from lightship.deploy.inputs import RenderInput
from lightship.errors import SpecError

_MAX_PORT = 65_535


def check_ports(around: RenderInput) -> None:
    """Returns when gateway and engines have ports of their own.

    Raises: SpecError: two have the same, the gateway has none, or one is beyond the last port.
    """
    gateway = around.gateway.port
    if gateway == 0:
        what = "the gateway's port is 0, which takes any free one, and others must know it"
        raise SpecError(what, where="gateway.listen", hint="Name a port, for example 0.0.0.0:8080.")
    for rung in around.deployment.rungs:
        if rung.port == gateway:
            raise SpecError(
                f"port {rung.port} is that of the gateway and of the engine of {rung.variant_name}",
                where="deploy.engine_port",
                hint="Choose others: gateway.listen, or deploy.engine_port, of which each rung takes the next.",
            )
        if rung.port > _MAX_PORT:
            raise SpecError(f"{rung.port} is no port", where="deploy.engine_port", hint="Choose a smaller one.")
