"""Results of load tests as files: our JSON, and the flat field names of `vllm bench serve --save-result`.

Source: field names of the latter from vllm/benchmarks/serve.py of vLLM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.performance.load_result import LoadResult, Quantiles
from lightship.evaluation.performance.records import NO_SLO, Slo
from lightship.evaluation.performance.search import SearchResult

FORMAT = "lightship-load/1"


@dataclass(frozen=True)
class LoadRecord:
    """One run with all that is needed to know what it says.

    Args:
        model: Name that was asked for.
        url: Root of the endpoint.
        protocol: The procedure, as a name.
        slo: What requests were judged by.
        load: The figures.
        has_fixed_length: Whether the endpoint honoured `ignore_eos`.
        measured_unix_s: When it began.
        machine: Fingerprint of the machine that the *client* ran on, or "".
        settings: What was asked for (`rate`, `burstiness`, lengths, `seed`, trace), under the names of the flags.
        lengths: Wanted lengths and what was changed of a trace.
        client_cpu_share: Part of one core that the client took; None: not known.
    """

    model: str
    url: str
    protocol: str
    slo: Slo
    load: LoadResult
    has_fixed_length: bool
    measured_unix_s: float
    machine: str
    settings: Mapping[str, Any]
    lengths: Mapping[str, float]
    client_cpu_share: float | None = None


def load_document(record: LoadRecord, *, search: SearchResult | None = None) -> dict[str, Any]:
    """The result in our format; numbers that do not exist are null, never NaN or infinity."""
    figures = asdict(record.load)
    if record.slo == NO_SLO:
        for name in ("num_good", "goodput_requests_per_s", "attainment", "attainment_interval"):
            figures[name] = None
    document = {
        "format": FORMAT,
        "model": record.model,
        "url": record.url,
        "protocol": record.protocol,
        "slo": None if record.slo == NO_SLO else asdict(record.slo),
        "has_fixed_length": record.has_fixed_length,
        "measured_unix_s": record.measured_unix_s,
        "machine": record.machine,
        "client_cpu_share": record.client_cpu_share,
        "settings": dict(record.settings),
        "lengths": dict(record.lengths),
        "figures": figures,
        "search": None if search is None else asdict(search),
    }
    return {key: _finite(value) for key, value in document.items()}


def vllm_document(record: LoadRecord) -> dict[str, Any]:
    """The result under vLLM's names; TPOT leaves out the first token, as there.

    `duration` is the window, without the drain that vLLM's own includes. In an open loop the counts and rates are of
    the requests scheduled in it; in a closed loop the rates are of what was delivered in it.
    """
    load, window_s = record.load, record.load.window_s
    num_input = round(load.mean_prompt_tokens * load.num_answered)
    num_output = round(load.mean_output_tokens * load.num_answered)
    is_open = load.offered_requests_per_s is not None
    requests_per_s = load.num_answered / window_s if is_open else load.answered_requests_per_s.per_s
    input_per_s = num_input / window_s if is_open else load.input_tokens_per_s.per_s
    output_per_s = num_output / window_s if is_open else load.output_tokens_per_s.per_s
    rate = record.settings.get("rate")
    began = datetime.fromtimestamp(record.measured_unix_s, tz=UTC)
    document: dict[str, Any] = {
        "date": f"{began:%Y%m%d-%H%M%S}",
        "endpoint_type": "openai",
        "backend": "openai",
        "label": record.protocol,
        "model_id": record.model,
        "tokenizer_id": None,
        "num_prompts": load.num_requests + load.num_undecided,
        "request_rate": (rate if rate is not None else load.offered_requests_per_s) if is_open else "inf",
        "burstiness": record.settings.get("burstiness", 1.0),
        "max_concurrency": None if is_open else load.concurrency,
        "duration": window_s,
        "completed": load.num_answered,
        "failed": sum(load.errors.values()),
        "total_input_tokens": num_input,
        "total_output_tokens": num_output,
        "request_throughput": requests_per_s,
        "request_goodput": None if record.slo == NO_SLO else load.goodput_requests_per_s.per_s,
        "output_throughput": output_per_s,
        "total_token_throughput": input_per_s + output_per_s,
    }
    latencies = (("ttft", load.ttft_ms), ("tpot", load.tpot_ms), ("itl", load.itl_ms), ("e2el", load.e2e_ms))
    for name, latency in latencies:
        document |= _vllm_latency(name, latency)
    return document


def _vllm_latency(name: str, latency: Quantiles | None) -> dict[str, float | None]:
    if latency is None:  # null rather than vLLM's 0: 0 ms would be the best figure of all
        return {f"{statistic}_{name}_ms": None for statistic in ("mean", "median", "std", "p90", "p95", "p99")}
    return {
        f"mean_{name}_ms": latency.mean,
        f"median_{name}_ms": latency.p50,
        f"std_{name}_ms": latency.std,
        f"p90_{name}_ms": latency.p90,
        f"p95_{name}_ms": latency.p95,
        f"p99_{name}_ms": latency.p99,
    }


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def write_document(document: Mapping[str, Any], path: Path) -> None:
    """Effects: replaces the file in one step.

    Raises: MeasurementError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(encode_document(document))
        partial.replace(path)
    except OSError as error:
        raise MeasurementError(f"the result cannot be written: {error.strerror}", where=str(path)) from error


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
