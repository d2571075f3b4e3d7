"""What one request may cost, how long it may wait and what it accepts: from headers, body head and class. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

import msgspec

from lightship.gateway.cache.control import read_cache_control
from lightship.gateway.dispatch.config import DEFAULT_PRIORITY, DispatchConfig, LadderConfig, PriorityClass
from lightship.ports.engine import CallTerms, Degrade
from lightship.wire.errors import ApiError, invalid_request
from lightship.wire.paths import ApiPath
from lightship.wire.requests import RequestHead

# Bytes of a request body per prompt token, for estimates: English text has four characters to a token.
_BYTES_PER_TOKEN = 4
# A day: longer than anybody waits.
_MOST_MS = 86_400_000.0
_MOST_TOKENS = 2**31
_NUMBER = re.compile(rb"[0-9]{1,12}(\.[0-9]{1,6})?")
_TAG = re.compile(rb"[a-z0-9][a-z0-9_-]{0,47}")
_SESSION = re.compile(rb"[!-~]{1,128}")


class _Wishes:
    """The headers of one request that say what it wants; everything else is left alone."""

    __slots__ = (
        "deadline_ms", "degrade", "max_cached_age_s", "min_quality", "priority", "reads_cache", "session",
        "stores_in_cache", "tags", "tpot_ms", "ttft_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.priority = ""
        self.session = ""
        self.deadline_ms = self.ttft_ms = self.tpot_ms = math.inf
        self.min_quality = 0.0
        self.degrade: Degrade | None = None
        self.reads_cache = self.stores_in_cache = True
        self.max_cached_age_s = math.inf
        self.tags: list[str] = []


def _number(name: str, value: bytes, *, most: float) -> float:
    if not _NUMBER.fullmatch(value) or float(value) > most:
        raise _header_error(name, f"must be a number from 0 to {most:g}")
    return float(value)


def _header_error(name: str, problem: str) -> ApiError:
    return invalid_request(f"The header {name} {problem}.", param=name, code="invalid_header")


def _read_priority(wishes: _Wishes, value: bytes) -> None:
    wishes.priority = value.decode("latin-1")


def _read_session(wishes: _Wishes, value: bytes) -> None:
    if not _SESSION.fullmatch(value):
        raise _header_error("x-session-id", "must be 1 to 128 printable characters without spaces")
    wishes.session = value.decode("ascii")


def _read_tags(wishes: _Wishes, value: bytes) -> None:
    tags = [tag.strip() for tag in value.split(b",")]
    if not all(_TAG.fullmatch(tag) for tag in tags):
        raise _header_error("x-tags", "must be words of a-z, 0-9, _ and -, with commas between them")
    wishes.tags = [tag.decode("ascii") for tag in tags]


def _read_deadline(wishes: _Wishes, value: bytes) -> None:
    wishes.deadline_ms = _number("x-deadline-ms", value, most=_MOST_MS)


def _read_ttft(wishes: _Wishes, value: bytes) -> None:
    wishes.ttft_ms = _number("x-slo-ttft-ms", value, most=_MOST_MS)


def _read_tpot(wishes: _Wishes, value: bytes) -> None:
    wishes.tpot_ms = _number("x-slo-tpot-ms", value, most=_MOST_MS)


def _read_min_quality(wishes: _Wishes, value: bytes) -> None:
    wishes.min_quality = _number("x-min-quality", value, most=1.0)


def _read_no_degrade(wishes: _Wishes, value: bytes) -> None:
    word = value.strip().lower()
    if word not in {b"1", b"true", b"0", b"false"}:
        raise _header_error("x-no-degrade", "must be true or false")
    if word in {b"1", b"true"}:
        wishes.degrade = Degrade.NEVER


def _read_cache_control(wishes: _Wishes, value: bytes) -> None:
    asked = read_cache_control(value.decode("latin-1"))
    wishes.stores_in_cache &= asked.stores
    wishes.reads_cache &= asked.reads and asked.max_age_s > 0
    wishes.max_cached_age_s = min(wishes.max_cached_age_s, asked.max_age_s)


_READERS: dict[bytes, Callable[[_Wishes, bytes], None]] = {
    b"x-priority": _read_priority,
    b"x-session-id": _read_session,
    b"x-tags": _read_tags,
    b"x-deadline-ms": _read_deadline,
    b"x-slo-ttft-ms": _read_ttft,
    b"x-slo-tpot-ms": _read_tpot,
    b"x-min-quality": _read_min_quality,
    b"x-no-degrade": _read_no_degrade,
    b"cache-control": _read_cache_control,
}


def call_terms(
    headers: Iterable[tuple[bytes, bytes]],
    head: RequestHead,
    *,
    path: ApiPath,
    num_body_bytes: int,
    ladder: LadderConfig | None,
    config: DispatchConfig,
    tenant: str,
    default_priority: str,
    max_importance: float,
    now_s: float,
) -> CallTerms:
    """The terms of one request.

    Args:
        headers: As ASGI has them: names in lower case.
        head: The fields of its body that bound what it generates.
        path: Where it was sent to.
        num_body_bytes: From which its prompt is estimated.
        ladder: What its model promises; None where nothing is known of it.
        config: Classes and bounds.
        tenant: Whose it is.
        default_priority: Class of requests that name none.
        max_importance: Of its key: a class above that is lowered to the best one the key may use.
        now_s: On the monotonic clock.

    Raises: ApiError: 400, naming the header or field that is wrong.
    """
    wishes = _Wishes()
    for header, value in headers:
        reader = _READERS.get(header)
        if reader is not None:
            reader(wishes, value)
    name, priority = _priority(wishes.priority or default_priority, config, max_importance)
    promised_s = ladder.ttft_s if ladder else math.inf
    ttft_s = wishes.ttft_ms / 1000 if wishes.ttft_ms < math.inf else promised_s
    max_wait_s = ttft_s if priority.max_wait_s is None else priority.max_wait_s
    return CallTerms(
        tenant=tenant,
        priority=name,
        importance=priority.importance,
        session=wishes.session or (head.prompt_cache_key or "")[:128],
        num_prompt_tokens=num_body_bytes // _BYTES_PER_TOKEN,
        max_output_tokens=_max_output_tokens(head, path, default=config.default_output_tokens),
        deadline_s=now_s + wishes.deadline_ms / 1000,
        max_wait_s=max_wait_s,
        may_leave=config.private_tags.isdisjoint(wishes.tags),
        ttft_s=ttft_s if priority.max_wait_s is None else math.inf,
        tpot_s=wishes.tpot_ms / 1000,
        degrade=wishes.degrade or priority.degrade,
        min_quality=max(wishes.min_quality, priority.min_quality),
        trimmed_output_tokens=priority.trimmed_output_tokens,
        reads_cache=wishes.reads_cache,
        stores_in_cache=wishes.stores_in_cache,
        max_cached_age_s=wishes.max_cached_age_s,
    )


def _priority(wanted: str, config: DispatchConfig, max_importance: float) -> tuple[str, PriorityClass]:
    name = wanted or DEFAULT_PRIORITY
    found = config.priority(name)
    if found is None:
        known = ", ".join(sorted({DEFAULT_PRIORITY, *config.priorities}))
        raise _header_error("x-priority", f"names no class of this gateway. Known: {known}")
    if found.importance <= max_importance:
        return name, found
    allowed = [(one.importance, key, one) for key, one in _classes(config) if one.importance <= max_importance]
    if not allowed:
        return name, msgspec.structs.replace(found, importance=math.floor(max_importance))
    _, name, found = max(allowed, key=lambda entry: (entry[0], entry[1]))
    return name, found


def _classes(config: DispatchConfig) -> Iterable[tuple[str, PriorityClass]]:
    yield from config.priorities.items()
    if DEFAULT_PRIORITY not in config.priorities:
        yield DEFAULT_PRIORITY, PriorityClass()


def _max_output_tokens(head: RequestHead, path: ApiPath, *, default: int) -> int:
    """Tokens it may generate over all its choices; 0 where nothing is generated. What cannot be, the engine refuses."""
    if not path.generates:
        return 0
    limits = (head.max_completion_tokens, head.max_tokens, head.max_output_tokens)
    limit = next((value for value in limits if value is not None), default)
    num_choices = max(head.n or 1, head.best_of or 1)
    return max(1, min(limit, _MOST_TOKENS) * max(1, min(num_choices, 1024)))
