"""What a model's output loses when one matrix of it is stored in another format. Runs in the toolchain `compress`.

The formats are imitated in torch: weights rounded to nearest and back, inputs too where the format quantizes them. That
ranks the groups; the real rounding comes later, and better, from llm-compressor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lightship.compression.allocation import Choice, Group
from lightship.compression.quantization.schemes import DENSE, MIXED_FORMATS, LinearLayer, stored_bits


@torch.no_grad()
def measure_choices(
    model: Any,
    groups: Mapping[str, Sequence[LinearLayer]],
    windows: Sequence[torch.Tensor],
    *,
    group_size: int,
    report: Callable[[int, int], None],
) -> list[Group]:
    """For each group its formats, with their bytes and the KL divergence of the model's output when only it has them.

    Args:
        windows: Token ids of shape (1, tokens).
        report: Told of progress: windows times formats done, and of how many.

    Effects: the model's weights change while this runs, and are what they were afterwards.
    """
    quantized = [(name, form) for name in groups for form in MIXED_FORMATS if form != DENSE]
    sums = dict.fromkeys(quantized, 0.0)
    num_tokens, done, total = 0, 0, len(windows) * len(quantized)
    for ids in windows:
        reference = _log_probabilities(model, ids)
        num_tokens += ids.shape[-1]
        for name, form in quantized:
            with imitated(model, groups[name], form, group_size=group_size):
                found = _log_probabilities(model, ids)
            # Summed in float64: differences of formats are smaller than float32 resolves in a long sum.
            sums[name, form] += float((reference.exp() * (reference - found)).sum(dtype=torch.float64))
            done += 1
            report(done, total)
    return [_group(name, layers, sums, num_tokens, group_size) for name, layers in groups.items()]


def _group(
    name: str,
    layers: Sequence[LinearLayer],
    sums: Mapping[tuple[str, str], float],
    num_tokens: int,
    group_size: int,
) -> Group:
    choices = []
    for form in MIXED_FORMATS:
        num_bytes = sum(stored_bits(form, layer, group_size=group_size) for layer in layers) // 8
        divergence = 0.0 if form == DENSE else max(0.0, sums[name, form] / num_tokens)
        choices.append(Choice(form, num_bytes, divergence))
    return Group(name, tuple(choices))


def _log_probabilities(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].float(), dim=-1)


@contextmanager
def imitated(model: Any, layers: Sequence[LinearLayer], form: str, *, group_size: int) -> Iterator[None]:
    """Within, the model's layers behave as if they were stored in format `form`."""
    modules = [model.get_submodule(layer.name) for layer in layers]
    kept = [module.weight.data for module in modules]
    hooks = []
    try:
        for module in modules:
            module.weight.data = rounded_weight(module.weight.data, form, group_size=group_size)
            if form == "w8a8":
                hooks.append(module.register_forward_pre_hook(lambda _, inputs: (rounded_rows(inputs[0], num_bits=8),)))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, weight in zip(modules, kept, strict=True):
            module.weight.data = weight


def rounded_weight(weight: torch.Tensor, form: str, *, group_size: int) -> torch.Tensor:
    """The weight after rounding to nearest in the format, back in its own type."""
    if form == "w8a8":
        return rounded_rows(weight, num_bits=8)
    if form == "w4a16":
        return rounded_rows(weight.unflatten(-1, (-1, group_size)), num_bits=4).flatten(-2)
    raise ValueError(f"no imitation of format {form!r}")


def rounded_rows(values: torch.Tensor, *, num_bits: int) -> torch.Tensor:
    """Each row (last dimension) rounded to nearest on a symmetric integer grid of its own."""
    largest = 2 ** (num_bits - 1) - 1
    wide = values.float()
    # As compressed-tensors does it: the range is symmetric about zero and covers 2 * largest + 1 steps.
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / (largest + 0.5)
    return (torch.clamp(torch.round(wide / scale), -largest - 1, largest) * scale).to(values.dtype)
