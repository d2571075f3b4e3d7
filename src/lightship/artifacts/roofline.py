"""How fast a model can be at best, from its bytes and its work: a bound that drops the hopeless unmeasured. Pure.

A decode step reads every weight it uses once for the whole batch, and the cached keys and values of every sequence; it
multiplies each weight once per sequence. It takes the longer of the two times. A prompt is computed in one piece.

What engines reach of this bound differs by far more than candidates do (16-bit weights at 32 requests: 43 to 295
tokens/s over three engines on one machine), so it orders nothing. It only says what cannot be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightship.artifacts.model_shape import ModelShape

_MS = 1000.0


@dataclass(frozen=True)
class WeightBits:
    """Stored bits of a weight, scales and zero points included, by part of the model."""

    blocks: float = 16.0
    embedding: float = 16.0
    head: float = 16.0


@dataclass(frozen=True)
class MachineSpeed:
    """What the machine moves and multiplies, all cores together.

    Args:
        bandwidth_bytes_per_s: Reading, from a working set as large as the model's: a small model stays in the cache.
        flops_per_s: Multiplications and additions in the arithmetic that the candidate uses.
    """

    bandwidth_bytes_per_s: float
    flops_per_s: float

    def __post_init__(self) -> None:
        """Raises: ValueError: a speed that is not finite and over zero."""
        for value in (self.bandwidth_bytes_per_s, self.flops_per_s):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"a speed must be finite and over 0, got {value}")


@dataclass(frozen=True)
class Load:
    """What is asked at once, per request: tokens in and out."""

    concurrency: int
    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        """Raises: ValueError: a count below one."""
        if min(self.concurrency, self.prompt_tokens, self.output_tokens) < 1:
            raise ValueError("concurrency, prompt_tokens and output_tokens must be at least 1")


@dataclass(frozen=True)
class Roofline:
    """The best that is possible.

    Args:
        ttft_ms: Of a prompt that is computed at once and alone.
        tpot_ms: Time of one decode step of the whole batch, at the middle of the answers.
        tokens_per_s: Output tokens of all requests together, prompts' time included.
        weight_bytes: Stored.
    """

    ttft_ms: float
    tpot_ms: float
    tokens_per_s: float
    weight_bytes: int


def weight_bytes(shape: ModelShape, bits: WeightBits) -> int:
    """Bytes of all matrices; a tied embedding is stored once, with the embedding's bits."""
    stored = shape.block_weights * bits.blocks + shape.embedding_weights * bits.embedding
    if not shape.is_tied:
        stored += shape.embedding_weights * bits.head
    return math.ceil(stored / 8)


def kv_bytes_per_token(shape: ModelShape, *, element_bytes: float) -> float:
    """Bytes that one token adds to the cache."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * element_bytes


def expected_experts(shape: ModelShape, num_tokens: int) -> float:
    """How many of a layer's experts a batch of tokens uses, when each takes its own at random.

    n (1 - (1 - k/n)^tokens); all k of one token, nearly all n of many.
    """
    share = shape.experts_per_token / shape.num_experts
    return shape.num_experts * (1 - (1 - share) ** num_tokens)


def _block_weights_read(shape: ModelShape, num_tokens: int) -> float:
    experts = expected_experts(shape, num_tokens) * shape.expert_weights
    return shape.num_layers * (shape.attention_weights + experts + shape.shared_weights)


def _block_weights_multiplied(shape: ModelShape) -> float:
    experts = shape.experts_per_token * shape.expert_weights
    return shape.num_layers * (shape.attention_weights + experts + shape.shared_weights)


def _attention_flops(shape: ModelShape, num_pairs: float) -> float:
    """Of (token, token before it) pairs: two products of queries with keys and of scores with values."""
    return 4.0 * shape.num_layers * shape.num_heads * shape.head_dim * num_pairs


def decode_step_s(
    shape: ModelShape, bits: WeightBits, speed: MachineSpeed, *, num_sequences: int, context: float, kv_bytes: float
) -> float:
    """Time of one decode step, in seconds: the longer of reading and multiplying.

    Args:
        context: Tokens before the one that is computed, of each sequence.
        kv_bytes: Bytes of the cache per token.
    """
    head_bytes = shape.embedding_weights * (bits.embedding if shape.is_tied else bits.head) / 8
    read = _block_weights_read(shape, num_sequences) * bits.blocks / 8 + head_bytes + num_sequences * context * kv_bytes
    multiplied = _block_weights_multiplied(shape) + shape.embedding_weights
    flops = num_sequences * (2.0 * multiplied + _attention_flops(shape, context))
    return max(read / speed.bandwidth_bytes_per_s, flops / speed.flops_per_s)


def prefill_s(
    shape: ModelShape, bits: WeightBits, speed: MachineSpeed, *, prompt_tokens: int, kv_bytes: float
) -> float:
    """Time of one prompt, in seconds; the head computes its last position alone."""
    head_bytes = shape.embedding_weights * (bits.embedding if shape.is_tied else bits.head) / 8
    read = _block_weights_read(shape, prompt_tokens) * bits.blocks / 8 + head_bytes + prompt_tokens * kv_bytes
    pairs = prompt_tokens * (prompt_tokens + 1) / 2
    flops = 2.0 * (prompt_tokens * _block_weights_multiplied(shape) + shape.embedding_weights)
    flops += _attention_flops(shape, pairs)
    return max(read / speed.bandwidth_bytes_per_s, flops / speed.flops_per_s)


def estimate_speed(
    shape: ModelShape, bits: WeightBits, speed: MachineSpeed, load: Load, *, kv_element_bytes: float = 2.0
) -> Roofline:
    """The best that this model can do on this machine under this load.

    Tokens per second follow from `concurrency` requests that come at once: their prompts one after the other, then
    their decode steps together. Continuous batching mixes the two, which moves work but saves none.
    """
    kv_bytes = kv_bytes_per_token(shape, element_bytes=kv_element_bytes)
    context = load.prompt_tokens + load.output_tokens / 2
    prompt_s = prefill_s(shape, bits, speed, prompt_tokens=load.prompt_tokens, kv_bytes=kv_bytes)
    step_s = decode_step_s(shape, bits, speed, num_sequences=load.concurrency, context=context, kv_bytes=kv_bytes)
    # The prompt's computation yields the first token.
    total_s = load.concurrency * prompt_s + (load.output_tokens - 1) * step_s
    return Roofline(
        ttft_ms=_MS * prompt_s,
        tpot_ms=_MS * step_s,
        tokens_per_s=load.concurrency * load.output_tokens / total_s,
        weight_bytes=weight_bytes(shape, bits),
    )
