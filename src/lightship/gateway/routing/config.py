"""The routing section of a gateway's configuration: every value has a default that needs no thought."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum

import msgspec


class Hedging(StrEnum):
    """Which requests may get a second attempt while the first is still waiting for its first byte."""

    OFF = "off"
    DETERMINISTIC = "deterministic"
    ALL = "all"


class BreakerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a replica's breaker opens and closes; see `breaker`.

    Args:
        failures_in_a_row: That open it.
        error_share: Failures among the attempts of a window that open it...
        min_attempts: ... once the window has seen this many.
        window_s: Length of the window.
        first_pause_s: From opening to the first probe; doubles each time a probe fails.
        longest_pause_s: Where the doubling ends.
        successes_to_close: Probes in a row that close it.
    """

    failures_in_a_row: int = 5
    error_share: float = 0.5
    min_attempts: int = 20
    window_s: float = 30.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0
    successes_to_close: int = 2


class OutlierConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a replica is taken out because it does much worse than its peers; see `outliers`.

    Args:
        max_ejected_share: Most replicas of a rung that are out at a time; 0 ejects none.
        interval_s: Between two judgements, and the time over which replicas are compared.
        min_attempts: Fewer in an interval are no evidence.
        error_share_above_peers: Failures among attempts above the peers' median.
        slow_factor: Time to first token per prompt token as a multiple of the peers' median.
        ejection_s: How long it is out; longer each time in a row, up to `longest_ejection_s`.
        longest_ejection_s: The most.
    """

    max_ejected_share: float = 0.5
    interval_s: float = 10.0
    min_attempts: int = 10
    error_share_above_peers: float = 0.3
    slow_factor: float = 3.0
    ejection_s: float = 30.0
    longest_ejection_s: float = 300.0


class RoutingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the replicas of a rung share its requests.

    Args:
        load_gate_s: A replica this many seconds of work ahead of the least loaded one gets no request for its prefix...
        load_gate_ratio: ... if it also has this multiple of the least loaded one's work.
        min_prefix_share: A prompt of which less than this share is known counts as unknown.
        imbalance_discount: What a replica right at the load gate loses of the worth of its known prefix.
        prefix_block_bytes: Bytes of prompt text per block; about four make a token.
        max_prefix_blocks: Blocks of a prompt that are looked at.
        prefix_capacity: Blocks remembered over all replicas.
        shares_prefixes: Whether tenants are led to prefixes others left. Off, the time to first token tells no tenant
            what another has asked.
        session_capacity: Sessions remembered.
        prefill_tokens_per_s: Prompt tokens a replica takes per second where its own rate is not configured.
        decode_tokens_per_s: Output tokens a replica makes per second in all, likewise.
        output_quantile: Of a route's recent answers: the output a new request is taken to have.
        reads_engine_metrics: Whether engines' `/metrics` correct the own accounting.
        metrics_max_age_s: Older figures of an engine are not used.
        breaker: See `BreakerConfig`.
        outliers: See `OutlierConfig`.
        hedging: Second attempts when the first byte is late; they count as retries.
        hedge_quantile: Of recent times to first byte: after which an attempt is late.
        hedge_min_delay_s: Never earlier than this.
    """

    load_gate_s: float = 2.0
    load_gate_ratio: float = 1.5
    min_prefix_share: float = 0.3
    imbalance_discount: float = 0.5
    prefix_block_bytes: int = 256
    max_prefix_blocks: int = 128
    prefix_capacity: int = 65_536
    shares_prefixes: bool = False
    session_capacity: int = 65_536
    prefill_tokens_per_s: float = 4000.0
    decode_tokens_per_s: float = 400.0
    output_quantile: float = 0.75
    reads_engine_metrics: bool = True
    metrics_max_age_s: float = 5.0
    breaker: BreakerConfig = BreakerConfig()
    outliers: OutlierConfig = OutlierConfig()
    hedging: Hedging = Hedging.OFF
    hedge_quantile: float = 0.95
    hedge_min_delay_s: float = 0.05


DEFAULT_ROUTING = RoutingConfig()


def routing_problems(config: RoutingConfig) -> Iterable[str]:
    """What is wrong with the section, each as `key: what was expected, what it is`."""
    for name in ("load_gate_s", "metrics_max_age_s", "prefill_tokens_per_s", "decode_tokens_per_s"):
        if not 0 < getattr(config, name) < math.inf:
            yield f"{name}: must be above 0 and finite, got {getattr(config, name):g}"
    if not 0 <= config.hedge_min_delay_s < math.inf:
        yield f"hedge_min_delay_s: must be at least 0 and finite, got {config.hedge_min_delay_s:g}"
    if not 1 <= config.load_gate_ratio < math.inf:
        yield f"load_gate_ratio: must be at least 1 and finite, got {config.load_gate_ratio:g}"
    for name in ("min_prefix_share", "imbalance_discount"):
        if not 0 <= getattr(config, name) <= 1:
            yield f"{name}: must be within 0 and 1, got {getattr(config, name):g}"
    for name in ("output_quantile", "hedge_quantile"):
        if not 0 < getattr(config, name) < 1:
            yield f"{name}: must be between 0 and 1, got {getattr(config, name):g}"
    for name, least in (("prefix_block_bytes", 16), ("max_prefix_blocks", 1), ("session_capacity", 1)):
        if getattr(config, name) < least:
            yield f"{name}: must be at least {least}, got {getattr(config, name)}"
    if config.prefix_capacity < config.max_prefix_blocks:
        least = config.max_prefix_blocks
        yield f"prefix_capacity: must be at least max_prefix_blocks ({least}), got {config.prefix_capacity}"
    yield from (f"breaker.{problem}" for problem in _breaker_problems(config.breaker))
    yield from (f"outliers.{problem}" for problem in _outlier_problems(config.outliers))


def _breaker_problems(config: BreakerConfig) -> Iterable[str]:
    for name in ("failures_in_a_row", "min_attempts", "successes_to_close"):
        if getattr(config, name) < 1:
            yield f"{name}: must be at least 1, got {getattr(config, name)}"
    if not 0 < config.error_share <= 1:
        yield f"error_share: must be above 0 and at most 1, got {config.error_share:g}"
    for name in ("window_s", "first_pause_s"):
        if not 0 < getattr(config, name) < math.inf:
            yield f"{name}: must be above 0 and finite, got {getattr(config, name):g}"
    if not config.first_pause_s <= config.longest_pause_s < math.inf:
        what = f"must be finite and at least first_pause_s ({config.first_pause_s:g})"
        yield f"longest_pause_s: {what}, got {config.longest_pause_s:g}"


def _outlier_problems(config: OutlierConfig) -> Iterable[str]:
    if not 0 <= config.max_ejected_share <= 1:
        yield f"max_ejected_share: must be within 0 and 1, got {config.max_ejected_share:g}"
    if not 0 < config.error_share_above_peers <= 1:
        yield f"error_share_above_peers: must be above 0 and at most 1, got {config.error_share_above_peers:g}"
    if not 1 < config.slow_factor < math.inf:
        yield f"slow_factor: must be above 1 and finite, got {config.slow_factor:g}"
    if config.min_attempts < 1:
        yield f"min_attempts: must be at least 1, got {config.min_attempts}"
    for name in ("interval_s", "ejection_s"):
        if not 0 < getattr(config, name) < math.inf:
            yield f"{name}: must be above 0 and finite, got {getattr(config, name):g}"
    if not config.ejection_s <= config.longest_ejection_s < math.inf:
        what = f"must be finite and at least ejection_s ({config.ejection_s:g})"
        yield f"longest_ejection_s: {what}, got {config.longest_ejection_s:g}"
