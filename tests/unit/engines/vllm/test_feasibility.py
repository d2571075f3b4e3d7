"""What cannot work is told before half a minute of imports."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lightship.engines.vllm.config import VllmWorkerConfig
from lightship.engines.vllm.feasibility import find_problems, lora_rank_limit

SETTINGS = VllmWorkerConfig(model_name="m", variant_name="v", variant_digest="d", folder="/m", python="/p")
DENSE = {"num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 688, "num_hidden_layers": 8}
EXPERTS = {**DENSE, "num_local_experts": 4}


def keys(model: dict[str, Any], *, device: Any = "cuda", num_cores: int = 64, **changes: Any) -> list[str]:
    settings = msgspec.structs.replace(SETTINGS, **changes)
    return [one.key for one in find_problems(settings, device=device, model=model, num_cores=num_cores)]


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        (DENSE, {}, []),
        (DENSE, {"tensor_parallel_size": 4}, []),  # 2 KV heads, each held twice
        (DENSE, {"tensor_parallel_size": 3}, ["tensor_parallel"]),
        (
            {**DENSE, "num_attention_heads": 6, "num_key_value_heads": 2},
            {"tensor_parallel_size": 3},
            ["tensor_parallel"],
        ),
        ({**DENSE, "intermediate_size": 689}, {"tensor_parallel_size": 2}, ["tensor_parallel"]),
        (DENSE, {"pipeline_parallel_size": 8}, []),
        (DENSE, {"pipeline_parallel_size": 9}, ["pipeline_parallel"]),
        (DENSE, {"expert_parallel": True, "tensor_parallel_size": 2}, ["expert_parallel"]),
        (EXPERTS, {"expert_parallel": True}, ["expert_parallel"]),
        (EXPERTS, {"expert_parallel": True, "tensor_parallel_size": 2}, []),
        (EXPERTS, {"expert_parallel": True, "data_parallel_size": 8}, ["expert_parallel"]),
        ({}, {"tensor_parallel_size": 7}, []),  # what the model does not say is not checked
    ],
)
def test_problems_are_those_of_the_models_shape(
    model: dict[str, Any], changes: dict[str, Any], expected: list[str]
) -> None:
    assert keys(model, **changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sleep_mode": True}, ["sleep_mode"]),
        ({"gpu_memory_share": 0.5}, ["gpu_memory_utilization"]),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2}, ["tensor_parallel"]),
        ({"tensor_parallel_size": 2, "expert_parallel": True}, ["expert_parallel"]),
        ({"tensor_parallel_size": 2}, []),
    ],
)
def test_problems_of_a_cpu_are_none_on_a_gpu(changes: dict[str, Any], expected: list[str]) -> None:
    assert keys(EXPERTS, device="cpu", num_cores=2, **changes) == expected
    assert keys(EXPERTS, device="cuda", num_cores=2, **changes) == []


def test_lora_rank_limit_is_the_next_one_that_vllm_takes() -> None:
    assert [lora_rank_limit(rank) for rank in (1, 2, 16, 17, 512, 513)] == [1, 8, 16, 32, 512, None]
