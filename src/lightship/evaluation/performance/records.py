"""What the load client saw of one request, and whether that meets the SLO. Values only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from lightship.errors import MeasurementError


class ErrorKind(StrEnum):
    """Why a request gave no complete, countable answer."""

    CONNECT = "connect"
    STATUS = "status"
    TIMEOUT = "timeout"
    CUT_OFF = "cut_off"  # by the end of the run, not by the server: it says nothing about the server
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    ERROR_EVENT = "error_event"
    NO_TOKENS = "no_tokens"
    NO_USAGE = "no_usage"


@dataclass(frozen=True)
class RequestRecord:
    """One request from schedule to end, on the client's monotonic clock.

    `scheduled_s` equals `sent_s` where there is no schedule (closed loop). Latencies count from `scheduled_s`, so that
    a late client cannot flatter the server. `token_times_s` are the arrivals of the events that carried output; an
    event may carry several tokens.
    """

    scheduled_s: float
    sent_s: float
    token_times_s: tuple[float, ...]
    ended_s: float
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    error: ErrorKind | None = None
    error_detail: str = ""

    @property
    def ttft_ms(self) -> float | None:
        """Time to the first output event; None when none came."""
        return (self.token_times_s[0] - self.scheduled_s) * 1000 if self.token_times_s else None

    @property
    def tpot_ms(self) -> float | None:
        """(e2e - ttft) / (n - 1), e2e being the time to the last output event; None below two tokens."""
        if not self.token_times_s or self.num_output_tokens < 2:
            return None
        return (self.token_times_s[-1] - self.token_times_s[0]) * 1000 / (self.num_output_tokens - 1)

    @property
    def e2e_ms(self) -> float | None:
        """Time to the last output event; None when none came."""
        return (self.token_times_s[-1] - self.scheduled_s) * 1000 if self.token_times_s else None

    @property
    def itl_ms(self) -> list[float]:
        """Gaps between output events, each with its next: what a reader of the stream feels."""
        return [(later - earlier) * 1000 for earlier, later in pairwise(self.token_times_s)]

    @property
    def lag_s(self) -> float:
        """How late the client sent it."""
        return self.sent_s - self.scheduled_s


@dataclass(frozen=True)
class Slo:
    """Limits that one request must meet, all of them; infinity stands for no limit."""

    ttft_ms: float
    tpot_ms: float
    e2e_ms: float = math.inf

    def __post_init__(self) -> None:
        for name, limit_ms in self._limits():
            if not limit_ms > 0:
                raise MeasurementError(f"the limit on {name} must be above 0 ms, got {limit_ms:g}")

    @property
    def name(self) -> str:
        """Text for protocol names.

        >>> Slo(ttft_ms=400, tpot_ms=40).name
        'slo-ttft400ms-tpot40ms'
        >>> Slo(ttft_ms=400, tpot_ms=math.inf, e2e_ms=2000).name
        'slo-ttft400ms-e2e2000ms'
        """
        limits = [f"{name}{limit_ms:g}ms" for name, limit_ms in self._limits() if limit_ms < math.inf]
        return "-".join(["slo", *(limits or ["none"])])

    def is_met_by(self, record: RequestRecord) -> bool | None:
        """Whether the request met every limit; errors miss; None when it was cut off before that was decided."""
        if record.error is ErrorKind.CUT_OFF:
            waited_ms = (record.ended_s - record.scheduled_s) * 1000
            first_ms = record.ttft_ms if record.ttft_ms is not None else waited_ms
            return False if first_ms > self.ttft_ms or waited_ms > self.e2e_ms else None
        if record.error is not None or record.ttft_ms is None or record.e2e_ms is None:
            return False
        is_fluent = record.tpot_ms is None or record.tpot_ms <= self.tpot_ms
        return record.ttft_ms <= self.ttft_ms and is_fluent and record.e2e_ms <= self.e2e_ms

    def _limits(self) -> tuple[tuple[str, float], ...]:
        return ("ttft", self.ttft_ms), ("tpot", self.tpot_ms), ("e2e", self.e2e_ms)


# For loads that nobody judges: every answered request is good.
NO_SLO = Slo(ttft_ms=math.inf, tpot_ms=math.inf)
