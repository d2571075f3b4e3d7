"""Watches a model read calibration text: how much each block, channel and KV group matters. Needs torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Measure = Literal["mean_abs", "l2"]


class ModelWatcher:
    """Scores parts of one decoder by what passes through it.

    Args:
        model: A causal model of the Llama layout: `model.layers`, each with `self_attn.o_proj` and `mlp.down_proj`.
        windows: Token ids of the calibration text, one list per window.
        report: Called after each window that was read.
    """

    def __init__(self, model: Any, windows: Sequence[Sequence[int]], report: Any = lambda: None) -> None:
        self._model = model.eval()
        self._blocks: list[nn.Module] = list(model.model.layers)
        self._windows = windows
        self._report = report

    def distances(self) -> list[list[float]]:
        """1 - cos between what enters block i and block j, mean over positions; the last one is what leaves the model.

        Raises: ValueError: an activation is not finite.
        """
        size = len(self._blocks) + 1
        total = torch.zeros(size, size, dtype=torch.float64)
        for states in self._states(tuple(range(len(self._blocks)))):
            unit = torch.nn.functional.normalize(torch.stack(states), dim=-1)
            total += torch.einsum("itd,jtd->ij", unit, unit).double() / unit.shape[1]
        mean = 1 - total / len(self._windows)
        if not torch.isfinite(mean).all():
            raise ValueError("activations are not finite: the checkpoint holds NaN or infinite weights")
        return [[float(value) for value in row] for row in mean]

    def influence_of(self, kept: tuple[int, ...]) -> list[float]:
        """Influence of each kept block in a model of these blocks alone.

        Raises: ValueError: an activation is not finite.
        """
        total = torch.zeros(len(kept), dtype=torch.float64)
        for states in self._states(kept):
            pairs = itertools.pairwise(states)
            total += torch.stack([1 - torch.cosine_similarity(a, b, dim=-1).mean() for a, b in pairs]).double()
        mean = total / len(self._windows)
        if not torch.isfinite(mean).all():
            raise ValueError("activations are not finite: the checkpoint holds NaN or infinite weights")
        return [float(value) for value in mean]

    def channels(self, kept: tuple[int, ...], measure: Measure) -> list[NDArray[np.float64]]:
        """Importance of each FFN channel of each kept block: mean |a| or root of mean a^2 of what enters down_proj."""
        return self._inputs_of([block.mlp.down_proj for block in self._blocks], kept, measure)

    def kv_groups(self, kept: tuple[int, ...], measure: Measure, num_groups: int) -> list[NDArray[np.float64]]:
        """Importance of each KV group of each kept block, by what its heads send into o_proj."""
        wide = self._inputs_of([block.self_attn.o_proj for block in self._blocks], kept, measure)
        if measure == "mean_abs":
            return [scores.reshape(num_groups, -1).mean(axis=1) for scores in wide]
        return [np.sqrt((scores.reshape(num_groups, -1) ** 2).sum(axis=1)) for scores in wide]

    def _inputs_of(
        self, modules: list[nn.Module], kept: tuple[int, ...], measure: Measure
    ) -> list[NDArray[np.float64]]:
        sums: dict[int, torch.Tensor] = {}
        num_tokens = sum(len(window) for window in self._windows)

        def watch(index: int) -> Any:
            def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
                del module
                values = inputs[0].flatten(0, -2).float()
                amount = (values.abs() if measure == "mean_abs" else values**2).sum(dim=0).double()
                sums[index] = sums.get(index, torch.zeros_like(amount)) + amount

            return hook

        handles = [modules[block].register_forward_pre_hook(watch(block)) for block in kept]
        try:
            for _ in self._forward(kept):
                pass
        finally:
            for handle in handles:
                handle.remove()
        means = [sums[block].numpy() / num_tokens for block in kept]
        return means if measure == "mean_abs" else [np.sqrt(mean) for mean in means]

    def _states(self, kept: tuple[int, ...]) -> Iterator[list[torch.Tensor]]:
        """What enters each kept block and leaves the last one, float32 of shape (tokens, width), window by window."""
        states: list[torch.Tensor] = []

        def before(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            del module
            states.append((inputs[0] if inputs else named["hidden_states"])[0].float())

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            states.append((output[0] if isinstance(output, tuple) else output)[0].float())

        handles = [self._blocks[block].register_forward_pre_hook(before, with_kwargs=True) for block in kept]
        handles.append(self._blocks[kept[-1]].register_forward_hook(after))
        try:
            for _ in self._forward(kept):
                yield states
                states.clear()
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, kept: tuple[int, ...]) -> Iterator[None]:
        with self._only(kept), torch.inference_mode():
            for window in self._windows:
                self._model.model(torch.tensor([list(window)]), use_cache=False)
                yield
                self._report()

    @contextmanager
    def _only(self, kept: tuple[int, ...]) -> Iterator[None]:
        """The model as if it had these blocks alone."""
        config = self._model.config
        types = getattr(config, "layer_types", None)
        self._model.model.layers = nn.ModuleList([self._blocks[block] for block in kept])
        config.num_hidden_layers = len(kept)
        if types is not None:
            config.layer_types = [types[block] for block in kept]
        try:
            yield
        finally:
            self._model.model.layers = nn.ModuleList(self._blocks)
            config.num_hidden_layers = len(self._blocks)
            if types is not None:
                config.layer_types = types
