"""The config file of a vLLM worker."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lightship.artifacts.draft_file import Draft
from lightship.engines.vllm.config import VllmWorkerConfig, encode_config, read_config
from lightship.errors import UsageError

CONFIG = VllmWorkerConfig(
    model_name="m", variant_name="v", variant_digest="sha256:1", folder="/f", port=8000, python="/env/bin/python"
)


@pytest.mark.parametrize("draft", [None, Draft(method="ngram", prompt_lookup_max=7)], ids=["none", "ngram"])
def test_config_written_is_read_back(draft: Draft | None, tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, draft=draft, kv_cache_precision="fp8")
    (tmp_path / "worker.json").write_bytes(encode_config(config))
    assert read_config(tmp_path / "worker.json") == config


@pytest.mark.parametrize(
    "change",
    [b'"dtype":"int8"', b'"num_threads":-1', b'"tensor_parallel_size":0', b'"speculative":{}', b'"draft":{}'],
    ids=lambda change: change.decode(),
)
def test_config_that_is_not_one_names_the_file(change: bytes, tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    path.write_bytes(msgspec.json.encode(CONFIG)[:-1] + b"," + change + b"}")
    with pytest.raises(UsageError, match=r"worker\.json"):
        read_config(path)


def test_config_processes_are_the_product_of_the_three_kinds_of_parallelism() -> None:
    config = msgspec.structs.replace(CONFIG, tensor_parallel_size=2, pipeline_parallel_size=3, data_parallel_size=4)
    assert config.num_processes == 24
