"""Job `carve_experts`: a dense checkpoint in, the same weights as a mixture of a shared and of routed experts out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from lightship.compression.moe.carve import ROUTER_SPREAD, Split, chosen_experts, fit_router, split_channels
from lightship.compression.moe.configs import carved_config, read_config
from lightship.compression.moe.layouts import (
    PROJECTIONS,
    Carving,
    MoeLayout,
    carve_layout,
    check_carving,
    dense_projection,
)
from lightship.compression.moe.record import count_parameters, make_record, write_record
from lightship.compression.moe.shards import CheckpointTensors, write_shards
from lightship.compression.moe.windows import calibration_windows
from lightship.compression.quantization.checkpoint_io import finish_checkpoint

# sigmoid of the shared expert's gate, whose weights are zero: its down_proj is divided by it.
_SHARED_GATE = 0.5
# Tokens whose channels are compared; a few thousand show which ones work together, and the profiles must fit in memory.
_MAX_SPLIT_TOKENS = 4096


@dataclass(frozen=True)
class _Layer:
    """A feed-forward network in float32, and the inputs it saw."""

    inputs: Any
    gate_proj: Any
    up_proj: Any
    down_proj: Any

    def channels(self, num_tokens: int) -> Any:
        """Activations of the channels for evenly spread inputs, and those inputs."""
        step = max(1, math.ceil(len(self.inputs) / num_tokens))
        inputs = self.inputs[::step].float()
        return torch.nn.functional.silu(inputs @ self.gate_proj.T) * (inputs @ self.up_proj.T), inputs


def main(job_path: Path) -> None:
    """Entry point.

    Job fields: `checkpoint`, `output` (an existing empty folder), `calibration` (JSON lines), `num_experts`,
    `num_shared`, `top_k`, `num_windows`, `window_tokens`.
    """
    job: dict[str, Any] = json.loads(job_path.read_text("utf-8"))
    torch.set_grad_enabled(False)
    checkpoint, output = Path(job["checkpoint"]), Path(job["output"])
    layout = carve_layout(json.loads((checkpoint / "config.json").read_text("utf-8")))
    dense = read_config(checkpoint)
    carving = Carving(job["num_experts"], job["num_shared"], job["top_k"])
    check_carving(carving, intermediate_size=int(dense.intermediate_size))
    windows = calibration_windows(
        checkpoint,
        Path(job["calibration"]),
        num_windows=job["num_windows"],
        window_tokens=job["window_tokens"],
        context_length=int(dense.max_position_embeddings),
    )
    inputs = _layer_inputs(checkpoint, windows)
    errors: list[float] = []
    source = CheckpointTensors(checkpoint)
    total = write_shards(_carved_tensors(source, layout, carving, inputs, errors), output)
    carved_config(dense, layout, carving).save_pretrained(output)
    finish_checkpoint(checkpoint, output)
    per_expert = 3 * int(dense.hidden_size) * (int(dense.intermediate_size) // carving.num_experts)
    parameters = count_parameters(
        total=total,
        per_expert=per_expert,
        num_layers=int(dense.num_hidden_layers),
        num_experts=carving.num_routed,
        top_k=carving.top_k,
    )
    record = make_record(
        "carve",
        sizes={"num_experts": carving.num_experts, "num_shared": carving.num_shared, "top_k": carving.top_k},
        parameters=parameters,
        architecture=layout.architecture,
        active_channel_fraction=carving.active_fraction,
        router_spread=0.0 if carving.top_k == carving.num_routed else ROUTER_SPREAD,
        # Of the networks' outputs on calibration tokens: squared error over squared norm, by layer.
        relative_output_error=[round(error, 5) for error in errors],
        approximations=_approximations(carving),
    )
    write_record(output, record)


def _layer_inputs(checkpoint: Path, windows: list[list[int]]) -> list[Any]:
    """Inputs of every layer's feed-forward network on the windows, each of shape (tokens, hidden)."""
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype="auto", local_files_only=True, trust_remote_code=False
    ).eval()
    seen: list[list[Any]] = [[] for _ in model.model.layers]
    for layer, kept in zip(model.model.layers, seen, strict=True):
        layer.mlp.register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0].flatten(0, -2).clone()))
    for done, window in enumerate(windows, start=1):
        model.model(torch.tensor([window]))  # without the head, whose logits nobody reads
        _report(done, 2 * len(windows), f"window {done} of {len(windows)}")
    return [torch.cat(kept) for kept in seen]


def _carved_tensors(
    source: CheckpointTensors, layout: MoeLayout, carving: Carving, inputs: list[Any], errors: list[float]
) -> Iterator[tuple[str, Any]]:
    num_layers = len(inputs)
    dense = {dense_projection(layer, name) for layer in range(num_layers) for name in PROJECTIONS}
    yield from ((name, source.read(name)) for name in source.names if name not in dense)
    for number in range(num_layers):
        weights = {name: source.read(dense_projection(number, name)) for name in PROJECTIONS}
        layer = _Layer(inputs[number], *(weights[name].float() for name in PROJECTIONS))
        split, router, error = _carve(layer, carving)
        errors.append(error)
        yield from _expert_tensors(weights, split, layout, carving, number)
        yield layout.router(number), torch.from_numpy(router).to(weights["down_proj"].dtype)
        yield from _zero_tensors(source, layout, number)
        _report(num_layers + number + 1, 2 * num_layers, f"layer {number + 1} of {num_layers}")


def _carve(layer: _Layer, carving: Carving) -> tuple[Split, Any, float]:
    """Channels of the experts, the router, and the share of the output's energy that is missed."""
    channels, sampled = layer.channels(_MAX_SPLIT_TOKENS)
    contributions = channels.abs() * layer.down_proj.norm(dim=0)
    split = split_channels(contributions.numpy(), carving)
    if carving.top_k == carving.num_routed:  # nothing to choose: equal weights make it the dense network
        return split, np.zeros((carving.num_routed, layer.inputs.shape[1])), 0.0
    everything, inputs = layer.channels(len(layer.inputs))
    norms = [(everything[:, part] @ layer.down_proj[:, part].T).norm(dim=1) for part in split.routed]
    router = fit_router(inputs.numpy(), torch.stack(norms, dim=1).numpy())
    chosen = torch.from_numpy(chosen_experts(sampled.numpy(), router, top_k=carving.top_k)).float()
    weight_of_channel = torch.ones_like(channels)
    for expert, part in enumerate(split.routed):
        weight_of_channel[:, part] = chosen[:, expert : expert + 1]
    missed = (channels * (1 - weight_of_channel)) @ layer.down_proj.T
    wanted = channels @ layer.down_proj.T
    return split, router, float(missed.square().sum() / wanted.square().sum())


def _expert_tensors(
    weights: dict[str, Any], split: Split, layout: MoeLayout, carving: Carving, layer: int
) -> Iterator[tuple[str, Any]]:
    """The rows and columns of each expert. What the layout multiplies outputs with is divided out of `down_proj`."""
    for projection, weight in weights.items():
        is_output = projection == "down_proj"
        for expert, part in enumerate(split.routed):
            rows = weight[:, part] * carving.top_k if is_output else weight[part]
            yield layout.expert(layer, expert, projection), rows
        rows = weight[:, split.shared] / _SHARED_GATE if is_output else weight[split.shared]
        yield f"model.layers.{layer}.mlp.shared_expert.{projection}.weight", rows


def _zero_tensors(source: CheckpointTensors, layout: MoeLayout, layer: int) -> Iterator[tuple[str, Any]]:
    """What the layout has and the dense model has not: the shared expert's gate, and biases of the attention."""
    del layout
    prefix = f"model.layers.{layer}"
    query = source.read(f"{prefix}.self_attn.q_proj.weight")
    yield f"{prefix}.mlp.shared_expert_gate.weight", torch.zeros(1, query.shape[1], dtype=query.dtype)
    for name in ("q_proj", "k_proj", "v_proj"):
        bias = f"{prefix}.self_attn.{name}.bias"
        if bias not in source.names:
            weight = source.read(f"{prefix}.self_attn.{name}.weight")
            yield bias, torch.zeros(weight.shape[0], dtype=weight.dtype)


def _approximations(carving: Carving) -> list[str]:
    if carving.top_k == carving.num_routed:
        return []
    return [
        f"{carving.num_routed - carving.top_k} of {carving.num_experts} parts are left out for each token",
        "the dense network adds its parts plainly; the layout weighs the chosen ones by a softmax, which small weights "
        "of the router keep near equal",
        "the router is linear in the layer's input, fitted to the norms of the experts' outputs",
    ]


def _report(done: int, total: int, note: str) -> None:
    print(json.dumps({"event": "progress", "done": done, "total": total, "note": note}), flush=True)
