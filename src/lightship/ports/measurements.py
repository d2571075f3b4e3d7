"""Measurement records. Quality and speed belong to a (variant, target) pair, never to a variant alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Metric(StrEnum):
    """What was measured; the unit is part of the name."""

    BITS_PER_BYTE = "bits_per_byte"
    PERPLEXITY = "perplexity"
    KL_NATS = "kl_nats_per_token"
    TOP1_AGREEMENT = "top1_agreement"
    QUALITY_RECOVERY = "quality_recovery"
    # A speculative draft beside the same variant without it: greedy completions that are the same, and speed.
    GREEDY_AGREEMENT = "greedy_agreement"
    DRAFT_SPEEDUP = "draft_speedup"
    DECODE_TOKENS_PER_S = "decode_tokens_per_s"
    GOODPUT_REQUESTS_PER_S = "goodput_requests_per_s"
    SLO_ATTAINMENT = "slo_attainment"
    TTFT_MS = "ttft_ms"
    TPOT_MS = "tpot_ms"
    PEAK_RSS_BYTES = "peak_rss_bytes"
    STARTUP_S = "startup_to_first_token_s"
    WEIGHT_BITS_PER_PARAMETER = "weight_bits_per_parameter"
    KV_BYTES_PER_TOKEN = "kv_cache_bytes_per_token"
    ESTIMATED_MEMORY_BYTES = "estimated_memory_bytes"
    PEAK_GPU_BYTES = "peak_gpu_memory_bytes"
    ENERGY_J_PER_OUTPUT_TOKEN = "energy_j_per_output_token"
    # The whole cost over the output tokens, and over those of requests that met the SLO.
    COST_USD_PER_1M_OUTPUT_TOKENS = "cost_usd_per_1m_output_tokens"
    COST_USD_PER_1M_GOOD_TOKENS = "cost_usd_per_1m_good_output_tokens"
    # The cost split over the phases: these two add up, each over its own tokens, to the whole.
    PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS = "prompt_phase_usd_per_1m_input_tokens"
    GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS = "generation_phase_usd_per_1m_output_tokens"


@dataclass(frozen=True)
class Interval:
    """A confidence interval, `level` as a share (0.95)."""

    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Target:
    """Engine, its version and settings, on one kind of machine."""

    engine: str
    engine_version: str
    device: str
    instruction_set: str
    num_threads: int
    settings: dict[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """One figure with everything needed to know what it says.

    `protocol` names the procedure and its parameters (for example `openvino-echo-512/top64`); two figures may be
    compared only when protocol and target agree. `num_items` counts what the interval is over (documents, requests).
    `concurrency` is 0 where load plays no part. `reference_digest` is set for paired metrics.
    `machine` is a fingerprint, not a host name.
    """

    metric: Metric
    value: float
    variant_digest: str
    target: Target
    protocol: str
    num_items: int
    interval: Interval | None
    measured_unix_s: float
    machine: str
    concurrency: int = 0
    reference_digest: str | None = None
    details: dict[str, float] = field(default_factory=dict)
