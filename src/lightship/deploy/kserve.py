"""`lightship deploy kserve`: an LLMInferenceService for each rung on vLLM, behind KServe's own gateway.

KServe starts `vllm serve` itself and sets address, model name, TLS and drain; our engine settings are added to that.
What a ladder does (degrade under a promise) is our gateway's part, and there is none here: each rung has a name.
Source: the CRD of serving.kserve.io/v1alpha2 and KServe's config-llm-template, whose shell reads `args` once more.
"""

from __future__ import annotations

import shlex
from typing import Any

from lightship.deploy.document import Document, Reckoning, Rendered, unique_paths, without_none, yaml_text
from lightship.deploy.images import Images, image_documents
from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes import meta
from lightship.deploy.kubernetes.engines import Engine, engines_of
from lightship.deploy.sizes import rung_reckonings, target_in_flight
from lightship.deploy.vllm_arguments import as_arguments, engine_options
from lightship.errors import SpecError
from lightship.ports.deployment import DeployedRung

_SET_BY_KSERVE = frozenset({"tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"})
_TLS_PORT = 8000


def render_kserve(around: RenderInput) -> Rendered:
    """The services.

    Raises: SpecError: a rung is not on vLLM, or KServe cannot do what `replicas` asks for.
    """
    if around.deployment.min_replicas == 0:
        what = "KServe wakes on figures of engines that run, so a model that sleeps would never be woken"
        raise SpecError(what, where="replicas.min", hint="Set it to 1, or deploy to kubernetes or knative.")
    services = [_service(around, engine) for engine in engines_of(around)]
    uses_image = any(_storage(around, rung) == "image" for rung in around.deployment.rungs)
    reckonings: list[Reckoning] = []
    for engine in engines_of(around):
        reckonings += [*rung_reckonings(engine.name, engine.rung), *engine.lifecycle.reckonings]
    return Rendered(
        platform="kserve",
        documents=unique_paths(
            [
                Document("10-services.yaml", yaml_text(*services)),
                *image_documents(around, with_models=uses_image),
            ]
        ),
        reckonings=tuple(reckonings),
        notes=tuple(_notes(around)),
        resources=tuple(services),
    )


def served_name(around: RenderInput, rung: DeployedRung) -> str:
    """What clients send: the model's name for the top rung, with the variant for the others."""
    name = around.deployment.model_name
    return name if rung.position == 0 else f"{name}@{rung.variant_name}"


def _service(around: RenderInput, engine: Engine) -> dict[str, Any]:
    rung, settings = engine.rung, around.settings.kserve
    options = engine_options(rung, platform="KServe")
    if not rung.needs.num_accelerators and around.settings.images.vllm == "auto":
        what = f"KServe starts `vllm serve`, which the image for CPUs has not got, and {rung.variant_name} is for a CPU"
        hint = "Set engines.vllm.device to cuda, or name an image with that program: deploy.images.vllm."
        raise SpecError(what, where="deploy.kserve", hint=hint)
    if rung.needs.num_nodes > 1:
        what = f"{rung.variant_name} is split over {rung.needs.num_nodes} machines"
        raise SpecError(what, where="deploy.kserve", hint="Take kubernetes, which renders a LeaderWorkerSet.")
    arguments = as_arguments({name: value for name, value in options.items() if name not in _SET_BY_KSERVE})
    metadata = meta.metadata(around, engine.name, meta.ENGINE, annotations=meta.rung_annotations(around, rung))
    metadata["namespace"] = settings.namespace
    router: dict[str, Any] = {"route": {}, "gateway": {}}
    if settings.scheduler:
        router["scheduler"] = {}
    container = engine.container([])
    return {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": metadata,
        "spec": without_none(
            {
                "model": {"uri": _uri(around, rung), "name": served_name(around, rung)},
                **_replicas(around, rung),
                "parallelism": _parallelism(rung),
                "router": router,
                "template": without_none(
                    {
                        **engine.placement(),
                        "terminationGracePeriodSeconds": engine.lifecycle.grace_s,
                        "containers": [
                            without_none(
                                {
                                    "name": "main",
                                    "image": Images(around).engine(rung),
                                    # a shell reads them once more: KServe's command evaluates "$@"
                                    "args": [shlex.quote(word) for word in arguments],
                                    "env": [one for one in container["env"] if one["name"] != "HOME"] or None,
                                    "resources": container["resources"],
                                    "startupProbe": {
                                        **_probe(rung),
                                        "periodSeconds": container["startupProbe"]["periodSeconds"],
                                        "failureThreshold": container["startupProbe"]["failureThreshold"],
                                    },
                                }
                            )
                        ],
                    }
                ),
            }
        ),
    }


def _probe(rung: DeployedRung) -> dict[str, Any]:
    """The engine's own probe, at the port that KServe gives it and under the certificate that it makes."""
    return {"httpGet": {"path": rung.ready_path, "port": _TLS_PORT, "scheme": "HTTPS"}}


def _parallelism(rung: DeployedRung) -> dict[str, int] | None:
    """Only tensor parallel is read on one machine by KServe's template."""
    if rung.pipeline_parallel > 1:
        what = f"{rung.variant_name} divides its layers between {rung.pipeline_parallel} groups of GPUs"
        raise SpecError(what, where="engines.vllm.pipeline_parallel", hint="KServe on one machine splits layers only.")
    return {"tensor": rung.tensor_parallel} if rung.tensor_parallel > 1 else None


def _replicas(around: RenderInput, rung: DeployedRung) -> dict[str, Any]:
    """A fixed number, or a range that KEDA scales in: never both."""
    deployment = around.deployment
    if deployment.min_replicas == deployment.max_replicas:
        return {"replicas": deployment.min_replicas}
    name = served_name(around, rung)
    running, waiting = (f'sum(vllm:num_requests_{kind}{{model_name="{name}"}})' for kind in ("running", "waiting"))
    trigger = {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": around.settings.kserve.prometheus_url,
            "query": f"{running} + {waiting}",
            "threshold": str(target_in_flight(rung)),
            "ignoreNullValues": "false",
        },
    }
    return {
        "scaling": {
            "minReplicas": deployment.min_replicas,
            "maxReplicas": deployment.max_replicas,
            "keda": {
                "pollingInterval": 5,
                "cooldownPeriod": round(deployment.idle_after_s),
                "fallback": {"failureThreshold": 3, "replicas": deployment.min_replicas},
                "triggers": [trigger],
            },
        }
    }


def _storage(around: RenderInput, rung: DeployedRung) -> str:
    chosen = around.settings.kserve.storage
    is_hub = around.deployment.source.startswith("hf:") and rung.variant_name in around.unchanged
    if chosen == "auto":
        return "hub" if is_hub else "image"
    if chosen == "hub" and not is_hub:
        what = f"{rung.variant_name} is not the unchanged checkpoint of a hub"
        raise SpecError(what, where="deploy.kserve.storage", hint="Choose image or claim.")
    return chosen


def _uri(around: RenderInput, rung: DeployedRung) -> str:
    match _storage(around, rung):
        case "hub":
            repository, _, revision = around.deployment.source.removeprefix("hf:").partition("@")
            return f"hf://{repository}:{revision}"
        case "claim":
            return f"pvc://{around.settings.kserve.claim}/{around.names.rungs[rung.position]}"
        case _:
            return f"oci://{Images(around).model(rung)}"


def _notes(around: RenderInput) -> list[str]:
    found = [*around.deployment.notes]
    if len(around.deployment.rungs) > 1:
        names = ", ".join(served_name(around, rung) for rung in around.deployment.rungs)
        found.append(
            f"KServe's gateway serves each rung under its own name ({names}) and steps down no ladder; our gateway in "
            "front does: list the services as upstreams of `lightship gateway`."
        )
    if around.deployment.max_replicas > around.deployment.min_replicas:
        found.append("KServe scales with KEDA, which must be installed and reach Prometheus.")
    if around.settings.kserve.storage == "claim":
        found.append(
            f"Copy each variant to a folder of the claim {around.settings.kserve.claim} named like its service."
        )
    found.append("Keys, limits and the response cache are parts of our gateway, which is not in front here.")
    return found
