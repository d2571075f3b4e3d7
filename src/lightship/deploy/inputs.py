"""What every renderer is given: the deployment, its gateway, the spec's section, and what lies on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightship.deploy.names import Names
from lightship.ports.deployment import DeployedGateway, DeployedRung, Deployment
from lightship.spec.deploy import DeploySpec

CPU, GPU = "cpu", "gpu"


@dataclass(frozen=True)
class RenderInput:
    """All that a rendering depends on: the same input gives the same bytes.

    Args:
        deployment: The ladder.
        gateway: In front of it, in a cluster where each rung has machines of its own.
        settings: The spec's section `deploy`.
        names: Of everything.
        other_hardware: The same rungs on other hardware than the spec's, by `cpu` or `gpu`, where engines run there.
        machine_gateway: The same where gateway and all rungs share one machine, in containers.
        host_gateway: The same without containers.
        model_folders: Folder of each rung's files on this machine, by variant name; "" where it was not made yet.
        unchanged: Names of variants that are the source as it is.
        tls_files: Certificate and key on this machine, ("", "") without TLS.
        version: Of Lightship; tags its images.
        python_pins: `package==version` of everything that Lightship runs with here, for its images.
    """

    deployment: Deployment
    gateway: DeployedGateway
    settings: DeploySpec
    names: Names
    machine_gateway: DeployedGateway
    host_gateway: DeployedGateway
    model_folders: Mapping[str, str]
    version: str
    other_hardware: Mapping[str, tuple[DeployedRung, ...]] = field(default_factory=dict)
    unchanged: frozenset[str] = frozenset()
    tls_files: tuple[str, str] = ("", "")
    python_pins: tuple[str, ...] = ()

    @property
    def hardware(self) -> str:
        """`gpu` where a rung takes one, else `cpu`."""
        return hardware_of(self.deployment.rungs)


def hardware_of(rungs: tuple[DeployedRung, ...]) -> str:
    """`gpu` where a rung takes one, else `cpu`."""
    return GPU if any(one.needs.num_accelerators for one in rungs) else CPU
