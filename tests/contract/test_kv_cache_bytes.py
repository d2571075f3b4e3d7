"""The formula of KV bytes per token against what OpenVINO GenAI really allocates for the built-in model."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightship.artifacts.machine import this_machine
from lightship.artifacts.model_config import read_model_config
from lightship.engines.openvino.config import KvCachePrecision, OpenVinoWorkerConfig
from lightship.engines.openvino.model_info import kv_cache_bytes_per_token
from lightship.engines.openvino.runtime import device_properties
from lightship.planning.kv_cache import kv_bytes_per_token, openvino_kv_storage

pytestmark = pytest.mark.local

NUM_BLOCKS, BLOCK_TOKENS = 64, 32


@pytest.mark.parametrize("precision", ["auto", "u8", "f32"])
def test_kv_bytes_per_token_equals_the_allocated_cache(builtin_ir: Path, precision: KvCachePrecision) -> None:
    genai = pytest.importorskip("openvino_genai", reason="NOT TESTED: the extra `local` is not installed")
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.num_kv_blocks = 0, NUM_BLOCKS
    config = OpenVinoWorkerConfig(
        folder=str(builtin_ir),
        model_name="m",
        variant_name="v",
        variant_digest="",
        port=1,
        kv_cache_precision=precision,
    )
    properties = device_properties(config)
    pipeline = genai.ContinuousBatchingPipeline(str(builtin_ir), scheduler, "CPU", properties)
    generation = genai.GenerationConfig()
    generation.max_new_tokens = 1
    pipeline.generate(["Once"], [generation])
    allocated = pipeline.get_metrics().kv_cache_size_in_bytes
    storage = openvino_kv_storage(precision, device="CPU", instruction_set=this_machine().instruction_set)
    formula = kv_bytes_per_token(read_model_config(builtin_ir / "config.json"), storage)
    assert allocated == formula * NUM_BLOCKS * BLOCK_TOKENS


def test_worker_counts_blocks_with_the_bytes_that_are_allocated(builtin_ir: Path) -> None:
    """It once took 5 % too little for u8, so that the cache passed the memory it was given."""
    model = read_model_config(builtin_ir / "config.json")
    shape = {"num_layers": model.num_layers, "num_kv_heads": model.num_kv_heads, "head_dim": model.head_dim}
    for precision in ("auto", "u8", "f32"):
        storage = openvino_kv_storage(precision, device="CPU", instruction_set="avx512_bf16")
        assert kv_cache_bytes_per_token(**shape, precision=precision) == kv_bytes_per_token(model, storage)
