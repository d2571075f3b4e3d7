"""All platforms by name: what `lightship deploy PLATFORM` renders, checked before anybody sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lightship.deploy.check import resource_problems
from lightship.deploy.compose import render_compose
from lightship.deploy.document import Rendered
from lightship.deploy.inputs import RenderInput
from lightship.deploy.knative import render_knative
from lightship.deploy.kserve import render_kserve
from lightship.deploy.kubernetes.render import render_kubernetes
from lightship.deploy.ports import check_ports
from lightship.deploy.ray_serve import render_ray
from lightship.deploy.systemd import render_systemd
from lightship.errors import SpecError

PLATFORMS: Mapping[str, Callable[[RenderInput], Rendered]] = {
    "compose": render_compose,
    "kubernetes": render_kubernetes,
    "knative": render_knative,
    "kserve": render_kserve,
    "ray": render_ray,
    "systemd": render_systemd,
}


def render(platform: str, around: RenderInput) -> Rendered:
    """The documents of one platform.

    Raises: SpecError: the platform cannot do what the spec asks for, ports clash, or a resource breaks a rule that its
        platform would find out later or never.
    """
    check_ports(around)
    rendered = PLATFORMS[platform](around)
    problems = resource_problems(rendered.resources, version=around.settings.kubernetes.version)
    if problems:
        listed = "; ".join(str(one) for one in problems)
        raise SpecError(
            f"{len(problems)} of the rendered resources' values would not work: {listed}",
            where="deploy",
            hint="Change the setting that the value comes from; `--explain` shows the arithmetic of numbers.",
        )
    return rendered
