"""From spec and variant to the settings of a worker."""

from __future__ import annotations

from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.ports.variants import Variant
from lightship.spec.document import Spec


def openvino_settings(spec: Spec, variant: Variant, *, port: int = 0) -> OpenVinoWorkerConfig:
    """Settings of a worker that serves `variant` as the spec's engine section says."""
    engine = spec.engines.openvino
    return OpenVinoWorkerConfig(
        model_name=spec.model.name,
        variant_name=variant.manifest.name,
        variant_digest=variant.manifest.digest,
        folder=str(variant.folder),
        port=port,
        device=engine.device,
        num_threads=engine.threads,
        precision=engine.precision,
        kv_cache_precision=engine.kv_cache_precision,
        kv_cache_bytes=engine.kv_cache_size,
        max_batched_tokens=engine.max_batched_tokens,
        max_sequences=engine.max_sequences,
        prefix_caching=engine.prefix_caching,
        body_limit_bytes=spec.gateway.body_limit,
        request_timeout_s=spec.gateway.timeouts.total_s,
        drain_timeout_s=spec.gateway.drain_timeout_s,
    )
