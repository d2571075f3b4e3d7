"""Settings of one vLLM server, as a JSON file that names everything the worker will do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lightship.artifacts.draft_file import Draft
from lightship.engines.base import WorkerConfig
from lightship.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
DataType = Literal["auto", "float32", "bfloat16", "float16"]
KvCachePrecision = Literal["auto", "fp8"]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[int, msgspec.Meta(ge=0)]


class VllmWorkerConfig(WorkerConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one vLLM server.

    It has no limit for bodies nor for the time of a request; what stands before it (the gateway) keeps those.

    Args:
        folder: Checkpoint in Hugging Face layout; quantization is read from its `config.json`, a speculative draft
            from its `draft.json`.
        python: Interpreter of the environment that vLLM is installed in.
        engine_version: What measurements call its version; "" looks at what is installed.
        device: `auto` is what vLLM was built for.
        dtype: Arithmetic of the model; `auto` is the checkpoint's own type.
        num_threads: Threads for inference on a CPU, of all its processes together; 0 is one per core that this process
            may use, less one per process for its scheduler.
        kv_cache_bytes: Memory of the KV cache, shared by all requests and the prefix cache.
        kv_cache_precision: Type of stored keys and values; `auto` is that of the model.
        max_sequences: Sequences that run at the same time.
        max_batched_tokens: Tokens per step; longer prompts are split over steps.
        context_length: Tokens of prompt and output together; 0 is what the model has, or less where the KV cache does
            not hold that.
        prefix_caching: Whether KV blocks are kept for prompts that begin alike.
        enforce_eager: Whether nothing is compiled: a faster start, slower steps.
        tensor_parallel_size: Processes or devices that each layer is split over.
        pipeline_parallel_size: Processes or devices that the layers are divided between.
        data_parallel_size: Copies of the model that share the requests.
        expert_parallel: Whether experts are divided between the processes, whole ones, instead of each being split.
        gpu_memory_share: Share of a GPU's memory for weights, activations and KV cache together, in place of
            `kv_cache_bytes`; 0 leaves it at that.
        lora: Adapters by the model name each is served under; folders in PEFT's layout.
        sleep_mode: Whether the server can be put to sleep, which frees the GPU's memory (`engines.vllm.sleep`).
        max_logprobs: Most alternatives per token that a client may ask for.
        use_draft: Whether tokens are proposed ahead at all.
        draft: How tokens are proposed, in place of what the variant's `draft.json` says.
        draft_folder: The draft model of `draft`, where the method is `model`; "" is the variant's own.
    """

    python: str
    engine_version: str = ""
    device: Device = "auto"
    dtype: DataType = "auto"
    num_threads: NonNegative = 0
    kv_cache_bytes: Annotated[int, msgspec.Meta(ge=2**20)] = 2**30
    kv_cache_precision: KvCachePrecision = "auto"
    max_sequences: Positive = 256
    max_batched_tokens: Positive = 2048
    context_length: NonNegative = 0
    prefix_caching: bool = True
    enforce_eager: bool = False
    tensor_parallel_size: Positive = 1
    pipeline_parallel_size: Positive = 1
    data_parallel_size: Positive = 1
    expert_parallel: bool = False
    gpu_memory_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    lora: dict[str, str] = msgspec.field(default_factory=dict)
    sleep_mode: bool = False
    max_logprobs: Positive = 64
    use_draft: bool = True
    draft: Draft | None = None
    draft_folder: str = ""

    @property
    def num_processes(self) -> int:
        """Processes or devices that compute."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size


def encode_config(config: VllmWorkerConfig) -> bytes:
    """The config as JSON for people and for `read_config`."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2)


def read_config(path: Path) -> VllmWorkerConfig:
    """The settings in a file.

    Raises: UsageError: it cannot be read, or a field is missing, unknown or out of range.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=VllmWorkerConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"not a worker config: {error}", where=str(path)) from error
