"""Everything a renderer is given, from the spec and this machine: the only part of `deploy` that looks around."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version

from lightship import __version__
from lightship.cli.deploy.gateway import Site, deployed_gateway, secrets_of
from lightship.cli.deploy.ladder import ChosenLadder, choose_rungs
from lightship.cli.deploy.rungs import deployed_rung
from lightship.cli.prepare import Surroundings
from lightship.deploy.inputs import CPU, GPU, RenderInput, hardware_of
from lightship.deploy.names import make_names
from lightship.ports.deployment import DeployedRung, Deployment
from lightship.spec.document import Spec

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?[^;]*(?:;(?P<marker>.*))?")
# The extras that images install.
_EXTRAS = re.compile(r"""extra\s*==\s*['"](?:local|redis)['"]""")


def _notes_of_one_machine(spec: Spec) -> list[str]:
    """What the spec says about one machine and a deployment has no use for."""
    if spec.replicas.memory is None:
        return []
    return ["replicas.memory is about models that share one machine with `lightship serve`; it is not used here."]


def render_input(spec: Spec, around: Surroundings, *, platform: str) -> RenderInput:
    """What `platform` is rendered from.

    Raises: SpecError: see `choose_rungs`, `deployed_rung`, `deployed_gateway` and `make_names`.
    """
    ladder = choose_rungs(spec, around)
    prefers_gpu = spec.engines.vllm is not None and spec.engines.vllm.device == "cuda"
    rungs = _rungs(spec, ladder, on_gpu=prefers_gpu)
    deployment = Deployment(
        model_name=spec.model.name,
        source=str(spec.model.source),
        rungs=rungs,
        min_replicas=spec.replicas.min,
        max_replicas=spec.replicas.max,
        idle_after_s=spec.replicas.idle_after_s,
        prefers_ladder=spec.replicas.prefer == "ladder",
        scale_down_after_s=spec.replicas.scale_down_after_s,
        usd_per_replica_hour=spec.cost.usd_per_hour,
        max_usd_per_hour=spec.replicas.max_usd_per_hour,
        secrets=secrets_of(spec),
        notes=(*ladder.notes, *_notes_of_one_machine(spec)),
    )
    tls = spec.gateway.tls
    is_host = platform == "systemd"
    gateways = {site: deployed_gateway(spec, ladder.rungs, Site.HOST if is_host else site) for site in Site}
    return RenderInput(
        deployment=deployment,
        gateway=gateways[Site.CLUSTER],
        settings=spec.deploy,
        names=make_names(spec.deploy.name, spec.model.name, [rung.variant_name for rung in rungs]),
        machine_gateway=gateways[Site.MACHINE],
        host_gateway=gateways[Site.HOST],
        model_folders={
            one.recipe.name: str(one.variant.folder) if one.variant is not None else "" for one in ladder.rungs
        },
        version=__version__,
        other_hardware=_other_hardware(spec, ladder, rungs, platform=platform),
        unchanged=frozenset(one.recipe.name for one in ladder.rungs if one.is_unchanged),
        tls_files=(tls.cert_file, tls.key_file) if tls is not None else ("", ""),
        python_pins=python_pins(),
    )


def _rungs(spec: Spec, ladder: ChosenLadder, *, on_gpu: bool) -> tuple[DeployedRung, ...]:
    return tuple(
        deployed_rung(spec, rung, ladder.checkpoint, position=position, on_gpu=on_gpu)
        for position, rung in enumerate(ladder.rungs)
    )


def _other_hardware(
    spec: Spec, ladder: ChosenLadder, rungs: tuple[DeployedRung, ...], *, platform: str
) -> dict[str, tuple[DeployedRung, ...]]:
    """The same rungs on the other hardware, where one of them is on vLLM, which runs on both."""
    has_choice = any(rung.engine == "vllm" for rung in rungs) and all(rung.needs.num_nodes == 1 for rung in rungs)
    if not has_choice or platform not in {"kubernetes", "compose"}:
        return {}
    other = CPU if hardware_of(rungs) == GPU else GPU
    found = _rungs(spec, ladder, on_gpu=other == GPU)
    return {other: found} if all(rung.needs.num_nodes == 1 for rung in found) else {}


def python_pins() -> tuple[str, ...]:
    """`package==version` of everything that Lightship asks for, directly or not, as it is installed here."""
    found: dict[str, str] = {}
    waiting = [("lightship", True)]
    while waiting:
        name, is_own = waiting.pop()
        for requirement in _requirements(name, with_extras=is_own):
            key = re.sub(r"[-_.]+", "-", requirement).lower()
            if key in found or key == "lightship":
                continue
            try:
                found[key] = version(requirement)
            except PackageNotFoundError:
                continue
            waiting.append((requirement, False))
    return tuple(f"{name}=={found[name]}" for name in sorted(found))


def _requirements(name: str, *, with_extras: bool) -> list[str]:
    try:
        listed = requires(name) or []
    except PackageNotFoundError:
        return []
    names = []
    for one in listed:
        match = _REQUIREMENT.match(one)
        marker = (match["marker"] or "") if match else ""
        if match and ("extra" not in marker or (with_extras and _EXTRAS.search(marker))):
            names.append(match["name"])
    return names
