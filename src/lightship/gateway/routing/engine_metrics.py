"""What engines say about themselves on `/metrics`, and how far it corrects our own accounting.

Only what is not ours is added: requests an engine has beyond those we sent it come from elsewhere (another gateway,
another process of this one) and are taken to be as much work as our usual one. An engine whose figures are old or
missing is judged by our accounting alone; when that is so of all of them, routing goes on as before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightship.observability import names

# An exposition that is longer is read up to here.
_MAX_BYTES = 4 * 2**20
# More requests than any engine has: a figure above is nonsense.
_MAX_REQUESTS = 100_000
# A KV cache this full preempts and queues, whatever the number of requests.
_KV_FULL = 0.95

_WAITING, _RUNNING, _KV = range(3)
# By engine: vLLM, SGLang, TensorRT-LLM, llama.cpp, our own workers, a gateway of ours in front of others.
_ALIASES: dict[bytes, int] = {
    b"vllm:num_requests_waiting": _WAITING,
    b"vllm:num_requests_running": _RUNNING,
    b"vllm:kv_cache_usage_perc": _KV,
    b"sglang:num_queue_reqs": _WAITING,
    b"sglang:num_running_reqs": _RUNNING,
    b"sglang:token_usage": _KV,
    b"trtllm_num_requests_waiting": _WAITING,
    b"trtllm_num_requests_running": _RUNNING,
    b"trtllm_kv_cache_utilization": _KV,
    b"llamacpp:requests_deferred": _WAITING,
    b"llamacpp:requests_processing": _RUNNING,
    b"llamacpp:kv_cache_usage_ratio": _KV,
    names.ENGINE_WAITING.encode(): _WAITING,
    names.ENGINE_RUNNING.encode(): _RUNNING,
    names.ENGINE_KV_USAGE.encode(): _KV,
    names.QUEUED.encode(): _WAITING,
    names.IN_FLIGHT.encode(): _RUNNING,
}
_BEGINNINGS = tuple({name[:7] for name in _ALIASES})


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """Requests an engine has, and the share of its KV cache in use."""

    num_waiting: int = 0
    num_running: int = 0
    kv_usage: float = 0.0


def parse_engine_metrics(exposition: bytes) -> EngineGauges | None:
    """The gauges in a Prometheus text, under whatever engine's names; None where there are none.

    Several series of one name (ranks, models) are added up; of KV caches the fullest counts. A line that makes no sense
    is passed over.

    >>> parse_engine_metrics(b'vllm:num_requests_waiting{model_name="m"} 3.0')
    EngineGauges(num_waiting=3, num_running=0, kv_usage=0.0)
    """
    requests = [0.0, 0.0]
    kv_usage = 0.0
    is_any = False
    for line in exposition[:_MAX_BYTES].split(b"\n"):
        if not line.startswith(_BEGINNINGS):
            continue
        kind = _ALIASES.get(line.partition(b"{")[0].partition(b" ")[0])
        value = _value_of(line) if kind is not None else None
        if kind is None or value is None:
            continue
        if kind == _KV:
            kv_usage = max(kv_usage, min(value, 1.0))
        elif value <= _MAX_REQUESTS:
            requests[kind] += value
            is_any = True
    return EngineGauges(int(requests[_WAITING]), int(requests[_RUNNING]), kv_usage) if is_any else None


def _value_of(line: bytes) -> float | None:
    """The number after name and labels, where a time stamp may follow; None for what is none or makes no sense."""
    words = line.rpartition(b"}")[2].split() if b"{" in line else line.split()[1:]
    try:
        value = float(words[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


class EngineView:
    """What one engine said last.

    A request of ours that is on its way is counted by one side before the other. So the excess is the lesser of two
    readings in a row: what is really there is in both.
    """

    __slots__ = ("_excess", "_is_kv_full", "_previous_excess", "read_at_s")

    def __init__(self) -> None:
        self.read_at_s = -math.inf
        self._excess = self._previous_excess = 0
        self._is_kv_full = False

    def note(self, gauges: EngineGauges, *, num_ours: int, now_s: float) -> None:
        """The engine said this while `num_ours` attempts of ours were under way."""
        self.read_at_s = now_s
        self._previous_excess = self._excess
        self._excess = max(0, gauges.num_waiting + gauges.num_running - num_ours)
        self._is_kv_full = gauges.kv_usage >= _KV_FULL and gauges.num_waiting > 0

    @property
    def has_ever_been_read(self) -> bool:
        """Whether the engine has told any figures yet."""
        return self.read_at_s > -math.inf

    def is_fresh(self, *, now_s: float, max_age_s: float) -> bool:
        """Whether its figures still count."""
        return now_s - self.read_at_s <= max_age_s

    def foreign_us(self, *, now_s: float, max_age_s: float, mean_us: int, full_us: int) -> int:
        """Work that is not ours, in microseconds; 0 where nothing recent is known.

        Args:
            now_s: Monotonic time.
            max_age_s: What is older does not count.
            mean_us: Work of a usual request.
            full_us: What a full KV cache counts for.
        """
        if not self.is_fresh(now_s=now_s, max_age_s=max_age_s):
            return 0
        return min(self._excess, self._previous_excess) * mean_us + (full_us if self._is_kv_full else 0)
