"""From a chosen rung to a deployed one: the command that its engine's adapter makes, with placeholders for paths."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.cli.deploy.estimates import goodput_of, in_flight_of, rung_needs, weight_bytes_of
from lightship.cli.deploy.ladder import ChosenRung
from lightship.cli.worker_settings import llamacpp_settings, openvino_settings, vllm_settings
from lightship.engines.llamacpp import adapter as llamacpp
from lightship.engines.llamacpp.adapter import LlamacppAdapter
from lightship.engines.llamacpp.config import context_length
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import encode_config
from lightship.engines.vllm import adapter as vllm
from lightship.engines.vllm.adapter import VllmAdapter, chosen_draft
from lightship.errors import CheckpointError, EngineError, SpecError
from lightship.ports.deployment import DeployedRung, ReplicaNeeds
from lightship.ports.variants import Manifest, Variant
from lightship.serving.parent import FLAG as EXIT_WITH_PARENT
from lightship.spec.document import Spec

_MODEL, _PYTHON, _PROGRAM, _HOST = "{model}", "{python}", "{program}", "{host}"
_OPENVINO_CONFIG = "worker.json"
# The variables that name files of this machine.
_LOCAL_VARIABLES = frozenset({"LD_PRELOAD"})


def deployed_rung(
    spec: Spec, rung: ChosenRung, checkpoint: Checkpoint | None, *, position: int, on_gpu: bool
) -> DeployedRung:
    """The rung as it is started elsewhere.

    Args:
        spec: What is wanted.
        rung: As chosen.
        checkpoint: The source, where it is here.
        position: On the ladder.
        on_gpu: Whether vLLM is to run on GPUs; other engines run on a CPU.

    Raises: SpecError: its size is not known, its GPUs do not come out even, or the model's context is not known.
        ArtifactError: the variant's draft cannot be read.
    """
    needs = rung_needs(spec, rung, checkpoint, on_gpu=on_gpu)
    variant = rung.variant or _planned_variant(spec, rung, checkpoint)
    port = spec.deploy.engine_port + position
    engine = {"openvino": _openvino, "vllm": _vllm, "llamacpp": _llamacpp}[rung.engine]
    parts = engine(spec, variant, needs, port)
    tensor, pipeline = 1, 1
    if rung.engine == "vllm" and spec.engines.vllm is not None:
        tensor, pipeline = spec.engines.vllm.tensor_parallel, spec.engines.vllm.pipeline_parallel
    return DeployedRung(
        position=position,
        variant_name=rung.recipe.name,
        variant_digest=rung.variant.manifest.digest if rung.variant else "",
        weight_format=rung.weight_format,
        weight_bytes=round(weight_bytes_of(spec, rung, checkpoint).value),
        engine=rung.engine,
        port=port,
        needs=needs,
        max_in_flight=in_flight_of(spec, rung),
        goodput_requests_per_s=goodput_of(rung),
        quality_loss_high=rung.facts.quality_loss_high,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        **parts,
    )


def _planned_variant(spec: Spec, rung: ChosenRung, checkpoint: Checkpoint | None) -> Variant:
    """A variant that is not made yet, for the settings that follow from what is known of it."""
    manifest = Manifest(
        digest="",
        name=rung.recipe.name,
        model_name=spec.model.name,
        weight_format=rung.weight_format,
        parent_digest="",
        recipe=rung.recipe,
        build_key="",
        tool_versions={},
        files=(),
        weight_bytes=0,
        num_parameters=0,
        context_length=checkpoint.context_length if checkpoint else 0,
        created_unix_s=0.0,
        source=str(spec.model.source),
    )
    return Variant(manifest, checkpoint.folder if checkpoint else Path(_MODEL))


def _elsewhere(variant: Variant) -> Variant:
    return replace(variant, folder=Path(_MODEL))


def _openvino(spec: Spec, variant: Variant, needs: ReplicaNeeds, port: int) -> dict[str, Any]:
    adapter = OpenVinoAdapter()
    settings = openvino_settings(spec, _elsewhere(variant), port=port)
    settings = msgspec.structs.replace(settings, host=_HOST, num_threads=round(needs.num_cores.value))
    words = adapter.worker_command(Path("{config}") / _OPENVINO_CONFIG)
    try:
        version = adapter.version()
    except EngineError:
        version = ""  # that of the image, which installs what the package asks for
    return {
        "engine_version": version,
        "command": tuple(_PYTHON if word == sys.executable else word for word in words if word != EXIT_WITH_PARENT),
        "config_files": {_OPENVINO_CONFIG: encode_config(settings).decode() + "\n"},
        "environment": adapter.environment(settings),
        "ready_path": adapter.ready_path,
        "live_path": "/health/live",
    }


def _vllm(spec: Spec, variant: Variant, needs: ReplicaNeeds, port: int) -> dict[str, Any]:
    adapter = VllmAdapter()
    settings = vllm_settings(spec, variant, python=Path(_PYTHON), port=port)
    if settings.lora:
        what = "adapters are folders of this machine, which a deployment does not bring along"
        raise SpecError(what, where="engines.vllm.lora", hint="Merge them into the checkpoint, or leave them out.")
    draft = chosen_draft(settings)
    settings = msgspec.structs.replace(
        settings,
        folder=_MODEL,
        host=_HOST,
        device="cuda" if needs.num_accelerators else "cpu",
        num_threads=0 if needs.num_accelerators else max(1, round(needs.num_cores.value) - 1),
        use_draft=draft is not None,
        draft=draft,
        draft_folder=f"{_MODEL}/draft" if draft is not None else "",
    )
    command = vllm.server_command(settings)  # here a platform ends it, and no parent
    if needs.num_nodes > 1:
        command = _served_by_program(command)
    environment = adapter.environment(settings)
    return {
        "engine_version": settings.engine_version,
        "command": tuple(command),
        "config_files": {},
        "environment": {key: value for key, value in environment.items() if key not in _LOCAL_VARIABLES},
        "ready_path": adapter.ready_path,
    }


def _served_by_program(command: list[str]) -> list[str]:
    """The command with `vllm serve`, the only one that knows `--headless`: it takes the model as its first argument."""
    options = [word for word in command if word.startswith("--") and not word.startswith("--model=")]
    return ["vllm", "serve", _MODEL, *options]


def _llamacpp(spec: Spec, variant: Variant, needs: ReplicaNeeds, port: int) -> dict[str, Any]:
    adapter = LlamacppAdapter()
    settings = llamacpp_settings(spec, variant, program=Path(_PROGRAM), port=port)
    try:
        context = context_length(settings)
    except CheckpointError as error:
        hint = "Set engines.llamacpp.context_length, or run `lightship up --no-serve` first."
        raise SpecError(error.what, where="engines.llamacpp.context_length", hint=hint) from error
    settings = msgspec.structs.replace(
        settings, folder=_MODEL, host=_HOST, num_threads=round(needs.num_cores.value), context_length=context
    )
    return {
        "engine_version": settings.engine_version,
        "command": tuple(llamacpp.server_command(settings)),
        "config_files": {},
        "environment": adapter.environment(settings),
        "ready_path": adapter.ready_path,
        "drains_itself": False,
    }
