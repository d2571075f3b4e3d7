"""Subjects made reachable: a worker is started for a variant; an endpoint runs already."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lightship.artifacts.machine import Machine
from lightship.cli.prepare import Surroundings, build_variants, resolve_model
from lightship.cli.subjects import EndpointSubject, VariantSubject
from lightship.cli.variant_worker import StartedWorker, started_worker
from lightship.ports.measurements import Target
from lightship.ports.variants import Variant
from lightship.spec.document import Spec

# What a measurement names where the endpoint is not ours: nothing is known of the machine behind it.
_REMOTE = "remote"


@dataclass(frozen=True)
class Reachable:
    """Where a subject answers, and what its figures are filed under.

    `variant_digest` is the name for an endpoint that is not ours, as in its record; `worker` is None for one, and
    `headers` carry its API key.
    """

    name: str
    base_url: str
    model: str
    variant_digest: str
    target: Target
    worker: StartedWorker | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class SubjectOpener:
    """Opens subjects, each as often as asked.

    Args:
        spec: Model, engine settings and SLO.
        variants: Variants that were built for the subjects, by name.
        headers: Request headers for endpoints.
    """

    spec: Spec
    variants: Mapping[str, Variant]
    around: Surroundings
    machine: Machine
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @asynccontextmanager
    async def open(self, subject: VariantSubject | EndpointSubject) -> AsyncIterator[Reachable]:
        """The subject while it can be asked.

        Raises: EngineError: its worker does not start.
        Effects: starts and stops a worker for a variant.
        """
        if isinstance(subject, EndpointSubject):
            name = f"{subject.model} at {subject.base_url}"
            yield Reachable(
                name=name,
                base_url=subject.base_url,
                model=subject.model,
                variant_digest=name,
                target=Target(_REMOTE, "", _REMOTE, _REMOTE, 0, {"base_url": subject.base_url}),
                headers=self.headers,
            )
            return
        variant = self.variants[subject.name]
        self.around.store.verify(variant)
        with self.around.store.in_use(variant):
            async with started_worker(self.spec, variant, self.around) as worker:
                yield Reachable(
                    name=f"{variant.manifest.name}@{worker.setup.adapter.name}",
                    base_url=worker.base_url,
                    model=self.spec.model.name,
                    variant_digest=variant.manifest.digest,
                    target=worker.setup.target,
                    worker=worker,
                )


def build_named(spec: Spec, names: Sequence[str], around: Surroundings) -> dict[str, Variant]:
    """The variants of these recipe names, built or found.

    Raises: SpecError: an unknown recipe. ToolchainError, CheckpointError, ArtifactError.
    Effects: as building has.
    """
    quality = spec.quality.model_copy(update={"reference": "source"})
    if not names:
        return {}
    model = resolve_model(spec, around)
    built: dict[str, Variant] = {}
    for name in dict.fromkeys(names):
        only = spec.model_copy(update={"variants": (name,), "quality": quality})
        (built[name],) = build_variants(only, model, around).variants
    return built
