"""The layer that holds each tenant to its own limits: reserve before, settle after.

    reserved   prompt tokens as estimated plus all output tokens it may ask for, at the model's highest price
    settled    what the engine counted, at the price of the rung that answered
    costs nothing: a refused or failed request that generated nothing, an answer from the cache
    a stream that breaks off or is left: the prompt and the events that were sent

A request counts in the requests per minute whatever comes of it: those limits are there for floods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from lightship.gateway.tenants.account import Reservation
from lightship.gateway.tenants.config import DEFAULT, TenantsConfig
from lightship.gateway.tenants.ledger import Ledger
from lightship.gateway.tenants.ledger_store import StoreUnavailableError
from lightship.gateway.tenants.limits import LimitKind, Limits, Refusal
from lightship.gateway.tenants.prices import PriceTable
from lightship.ports.engine import Engine, EngineCall, EngineReply
from lightship.wire.errors import ApiError, overloaded, rate_limited

# Answers to clients that were refused together are spread over this part of their wait, and this much more.
_JITTER_SHARE = 0.2
_JITTER_S = 0.5
_CACHE_HEADER = "x-cache"


class LimitedEngine:
    """Another engine, each call of which stays within its tenant's limits.

    Args:
        inner: Whose replies know their token counts at their end.
        ledger: Of all tenants.
        config: Limits and prices.
        variants: Names of the variants of each served model, from the top rung down.
        random_share: A random number from 0 to 1, so that refused clients do not come back together.
    """

    def __init__(
        self,
        inner: Engine,
        *,
        ledger: Ledger,
        config: TenantsConfig,
        variants: Mapping[str, Sequence[str]],
        random_share: Callable[[], float],
    ) -> None:
        self.inner = inner
        self.ledger = ledger
        self.random_share = random_share
        self.apply(config, variants)

    def apply(self, config: TenantsConfig, variants: Mapping[str, Sequence[str]]) -> None:
        """Effects: requests that begin from now on meet these limits; what was used stays counted."""
        self._limits = {tenant: limit.limits() for tenant, limit in config.limits.items()}
        self._default_limits = self._limits.get(DEFAULT)
        self.prices = PriceTable(config.prices, variants)
        self.ledger.on_store_loss = config.on_store_loss

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """See `Engine`.

        Raises: ApiError: 429, a limit of the tenant was passed; 503, the counters cannot be reached.
        """
        limits = self._limits.get(call.terms.tenant, self._default_limits)
        if limits is None:
            return self.inner.open(call)
        return _Limited(self, call, limits)


class _Limited:
    __slots__ = ("_call", "_engine", "_ledger", "_limits", "_opened", "_prices", "_reply", "_reservation")

    def __init__(self, engine: LimitedEngine, call: EngineCall, limits: Limits) -> None:
        self._engine = engine
        self._ledger = engine.ledger
        self._prices = engine.prices  # those the request was reserved at, whatever is reloaded
        self._call = call
        self._limits = limits

    async def __aenter__(self) -> EngineReply:
        self._reservation = await self._reserve()
        try:
            self._opened = self._engine.inner.open(self._call)
            reply = self._reply = await self._opened.__aenter__()
        except BaseException as error:
            self._ledger.settle(self._reservation, num_tokens=0, nanousd=0)
            if isinstance(error, ApiError):
                error.headers = {**self._headers(), **error.headers}
            raise
        reply.headers.update(self._headers())
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._opened.__aexit__(kind, error, traceback)
        finally:
            self._settle()

    async def _reserve(self) -> Reservation:
        terms = self._call.terms
        num_prompt_tokens, num_output_tokens = terms.num_prompt_tokens, terms.max_output_tokens
        price = self._prices.highest(self._call.served_model)
        try:
            result = await self._ledger.reserve(
                terms.tenant,
                self._limits,
                num_tokens=num_prompt_tokens + num_output_tokens,
                nanousd=price.of(num_prompt_tokens, num_output_tokens),
            )
        except StoreUnavailableError as error:
            message = "Limits and budgets cannot be checked at the moment. Try again."
            raise overloaded(message, reason="budget") from error
        if isinstance(result, Reservation):
            return result
        refused = _api_error(result, self._limits, self._engine.random_share())
        refused.headers |= self._headers()
        raise refused

    def _settle(self) -> None:
        reply, call = self._reply, self._call
        usage = reply.usage
        num_prompt_tokens = num_output_tokens = 0
        is_hit = reply.headers.get(_CACHE_HEADER, "").startswith("hit")
        # One who reads along with another's call takes over the bill when the other one leaves.
        if reply.status == 200 and (not is_hit or usage.num_output_tokens):
            num_prompt_tokens = usage.num_prompt_tokens if usage.is_reported else call.terms.num_prompt_tokens
            num_output_tokens = usage.num_output_tokens
        self._ledger.settle(
            self._reservation,
            num_tokens=num_prompt_tokens + num_output_tokens,
            nanousd=self._prices.of(call.served_model, reply.rung).of(num_prompt_tokens, num_output_tokens),
        )

    def _headers(self) -> dict[str, str]:
        """OpenAI's names; a limit that is not set has no header."""
        limits = self._limits
        if limits.requests_per_min is None and limits.tokens_per_min is None:
            return {}
        left = self._ledger.left(self._call.terms.tenant)
        reset = f"{left.reset_s:.1f}s"
        headers = {}
        if left.requests is not None:
            headers["x-ratelimit-limit-requests"] = str(limits.requests_per_min)
            headers["x-ratelimit-remaining-requests"] = str(left.requests)
            headers["x-ratelimit-reset-requests"] = reset
        if left.tokens is not None:
            headers["x-ratelimit-limit-tokens"] = str(limits.tokens_per_min)
            headers["x-ratelimit-remaining-tokens"] = str(left.tokens)
            headers["x-ratelimit-reset-tokens"] = reset
        return headers


def _api_error(refusal: Refusal, limits: Limits, random_share: float) -> ApiError:
    kind, wait_s = refusal.kind, refusal.wait_s
    reason = "budget" if kind.is_budget else "rate-limit"
    code = "insufficient_quota" if kind.is_budget else "rate_limit_exceeded"
    limit = _shown_limit(kind, limits)
    if wait_s == float("inf"):
        message = f"This request alone is larger than the limit of {limit}. Shorten the prompt or lower max_tokens."
        return rate_limited(message, reason=reason, retry_after_s=wait_s, should_retry=False, code=code)
    if refusal.is_exhausted:
        message = f"The budget of {limit} is used up."
    elif kind.is_budget:
        message = f"What is left of the budget of {limit} is reserved for requests under way. Try again."
    else:
        message = f"The limit of {limit} is reached. Try again later."
    jittered_s = wait_s + random_share * (wait_s * _JITTER_SHARE + _JITTER_S)
    if not refusal.is_exhausted and wait_s <= 60:
        jittered_s = min(jittered_s, 60.0)  # what client libraries still wait for
    should_retry = not refusal.is_exhausted
    return rate_limited(message, reason=reason, retry_after_s=jittered_s, should_retry=should_retry, code=code)


_FIELDS = {
    LimitKind.CONCURRENT_REQUESTS: "concurrent_requests",
    LimitKind.REQUESTS_PER_MIN: "requests_per_min",
    LimitKind.TOKENS_PER_MIN: "tokens_per_min",
    LimitKind.DAILY_TOKENS: "daily_tokens",
    LimitKind.MONTHLY_TOKENS: "monthly_tokens",
    LimitKind.DAILY_USD: "daily_nanousd",
    LimitKind.MONTHLY_USD: "monthly_nanousd",
}


def _shown_limit(kind: LimitKind, limits: Limits) -> str:
    value = getattr(limits, _FIELDS[kind])
    return f"{value / 1e9:g} {kind}" if kind in {LimitKind.DAILY_USD, LimitKind.MONTHLY_USD} else f"{value} {kind}"
