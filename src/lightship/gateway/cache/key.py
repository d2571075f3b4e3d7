"""Which requests are the same: the key an answer is stored under, and who may have it.

Pure. A key covers the tenant, the served model, the path, the digest of the variant that answered and every field of
the request that may change the answer, known or not. Left out are only fields that cannot change it, in
`_IRRELEVANT_FIELDS`; the name a client calls the model by is one, because names move from variant to variant, and
digests do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal, localcontext
from enum import StrEnum
from hashlib import sha256
from typing import Any

import msgspec

# Changes whenever the same request would get another key, so that old entries are never found by accident.
_FORMAT = "lightship-exact-1"
_IRRELEVANT_FIELDS = (
    "model",
    "stream",
    "stream_options",
    "user",
    "metadata",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
)
# Any spelling of 0.
_ZERO_TEMPERATURE = re.compile(rb'"temperature"[ \t\r\n]*:[ \t\r\n]*-?0(?:\.0+)?(?:[eE][+-]?[0-9]+)?[ \t\r\n]*[,}]')
# No number of a request needs more characters; beyond, its exact value is not worth the time it takes.
_NUMBER_CHARS = 40
# Decimal exponent up to which a whole number is written out, so that 1e2 and 100 meet and 1e999999999 costs nothing.
_WHOLE_EXPONENT = 30
# Keying takes about 10 ms for each MiB, on the event loop; this is some 60,000 tokens.
MAX_KEYED_BYTES = 2**18


class BypassReason(StrEnum):
    """Why a request has nothing to do with the cache; a closed list, fit for a metric label."""

    OFF = "off"
    PATH = "path"
    CACHE_CONTROL = "cache-control"
    NOT_DETERMINISTIC = "not-deterministic"
    SEVERAL_CHOICES = "several-choices"
    STREAM_OPTIONS = "stream-options"
    TOO_LARGE = "too-large"
    AMBIGUOUS = "ambiguous"


class BypassError(Exception):
    """The request cannot be keyed.

    Args:
        reason: Why.
    """

    def __init__(self, reason: BypassReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class ScopedKey(msgspec.Struct, frozen=True, gc=False):
    """One request of one tenant, before it is known which variant answers."""

    digest: bytes

    def for_variant(self, variant_digest: str) -> str:
        """The key of its answer by one variant, in hexadecimal."""
        return sha256(self.digest + variant_digest.encode()).hexdigest()


class CacheableRequest(msgspec.Struct, frozen=True, gc=False):
    """What the cache knows of a request.

    Args:
        key: Of its answers.
        is_streaming: Whether it wants events.
        wants_usage: Whether it wants the token counts as an event before the last one.
    """

    key: ScopedKey
    is_streaming: bool
    wants_usage: bool


def read_cacheable(
    body: bytes,
    *,
    tenant: str,
    path: str,
    served_model: str = "",
    deterministic_only: bool = True,
    accepts_seed: bool = False,
) -> CacheableRequest:
    """What the cache has to know of a request.

    Args:
        body: The request.
        tenant: Whose it is.
        path: Where it was sent.
        served_model: The configured name behind the one it asks for; a variant without a digest is only a name, and two
            models may have one of the same.
        deterministic_only: Whether other requests are refused.
        accepts_seed: Whether a seed makes it deterministic.

    Raises: BypassError: it is not for the cache, or could be read in two ways.

    >>> one = read_cacheable(b'{"model":"a","prompt":"x","temperature":0}', tenant="t", path="/v1/completions")
    >>> two = read_cacheable(b'{"temperature":0.0,"prompt":"x","model":"b"}', tenant="t", path="/v1/completions")
    >>> one == two
    True
    """
    if len(body) > MAX_KEYED_BYTES:
        raise BypassError(BypassReason.TOO_LARGE)
    request = decode_request(body)
    if not _is_single(request):
        raise BypassError(BypassReason.SEVERAL_CHOICES)
    if deterministic_only and not is_deterministic(request, accepts_seed=accepts_seed):
        raise BypassError(BypassReason.NOT_DETERMINISTIC)
    is_streaming = request.get("stream") is True
    wants_usage = _wants_usage(request.get("stream_options")) and is_streaming
    canonical = canonical_form(body, request)
    scope = msgspec.json.encode((_FORMAT, tenant, served_model, path))
    return CacheableRequest(ScopedKey(sha256(scope + b"\n" + canonical).digest()), is_streaming, wants_usage)


def may_be_deterministic(body: bytes, *, accepts_seed: bool = False) -> bool:
    """A quick look before anything is decoded; False where the body cannot ask for a deterministic answer.

    >>> may_be_deterministic(b'{"temperature": 0.0}'), may_be_deterministic(b'{"temperature":0.7}')
    (True, False)
    """
    start = body.find(b'"temperature"')
    if start >= 0 and _ZERO_TEMPERATURE.search(body, start) is not None:
        return True
    return accepts_seed and b'"seed"' in body


def decode_request(body: bytes) -> dict[str, Any]:
    """The request as Python values, numbers exactly as they were written.

    Raises: BypassError: not a JSON object, or with a number that is too long to be exact.
    """
    try:
        request = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BypassError(BypassReason.AMBIGUOUS) from error
    return request


def is_deterministic(request: Mapping[str, Any], *, accepts_seed: bool = False) -> bool:
    """Whether the same request should get the same answer: its temperature is given and 0, or a seed counts and is
    given. Where no temperature is given it is 1.
    """
    temperature, seed = request.get("temperature"), request.get("seed")
    if temperature == 0 and not isinstance(temperature, bool):
        return True
    return accepts_seed and isinstance(seed, int) and not isinstance(seed, bool)


def canonical_form(body: bytes, request: dict[str, Any]) -> bytes:
    """The fields that may change the answer, keys sorted at every depth, each number in one spelling.

    Args:
        body: What `request` was decoded from.
        request: Its top-level fields; those that do not matter are taken out of it.

    Raises: BypassError: an object in it has a key twice, which engines read in different ways.
    """
    if _has_duplicate_keys(body, request):
        raise BypassError(BypassReason.AMBIGUOUS)
    for name in _IRRELEVANT_FIELDS:
        request.pop(name, None)
    canonical: bytes = _ENCODER.encode(request)
    return canonical


def _exact_number(text: str) -> int | Decimal:
    """One value for all spellings of a number that has a point or an exponent; no two numbers share one.

    >>> _exact_number("1.0"), _exact_number("1e0"), _exact_number("0.10"), _exact_number("-0.0")
    (1, 1, Decimal('0.1'), 0)
    """
    if text == "0.0":
        return 0
    if len(text) > _NUMBER_CHARS:
        raise BypassError(BypassReason.AMBIGUOUS)
    with localcontext() as context:
        context.prec = _NUMBER_CHARS
        try:
            number = Decimal(text).normalize()
        except ArithmeticError as error:  # an exponent beyond all bounds
            raise BypassError(BypassReason.AMBIGUOUS) from error
    is_whole = number.as_tuple().exponent >= 0  # type: ignore[operator] # neither infinite nor NaN: JSON has none
    return int(number) if is_whole and number.adjusted() <= _WHOLE_EXPONENT else number


# Built once.
_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=_exact_number)
_ENCODER = msgspec.json.Encoder(order="sorted", decimal_format="number")
_ENCODER_AS_GIVEN = msgspec.json.Encoder(decimal_format="number")


def _is_single(request: Mapping[str, Any]) -> bool:
    num_choices, num_tried = request.get("n"), request.get("best_of")
    return (num_choices is None or _is_one(num_choices)) and (num_tried is None or _is_one(num_tried))


def _is_one(value: object) -> bool:
    return value == 1 and not isinstance(value, bool)


def _wants_usage(options: object) -> bool:
    """Whether `stream_options` asks for usage at the end.

    Raises: BypassError: it asks for something that is not known to be replayed as it was.
    """
    if options is None:
        return False
    if not isinstance(options, dict):
        raise BypassError(BypassReason.STREAM_OPTIONS)
    if any(value not in (None, False) for name, value in options.items() if name != "include_usage"):
        raise BypassError(BypassReason.STREAM_OPTIONS)
    return options.get("include_usage") is True


def _has_duplicate_keys(body: bytes, request: dict[str, Any]) -> bool:
    """Whether decoding lost members.

    Most bodies without blanks are what encoding gives again, and nothing was lost. Else the members are counted: in
    JSON without blanks `":` ends a key wherever no backslash stands before it. Where two do, a look at each object has
    to tell.
    """
    compact, again = msgspec.json.format(body, indent=-1), _ENCODER_AS_GIVEN.encode(request)
    if compact == again:
        return False
    if b'\\\\":' in compact or b'\\\\":' in again:
        return _has_duplicate_keys_exactly(body)
    return _num_members(compact) != _num_members(again)


def _num_members(compact: bytes) -> int:
    return compact.count(b'":') - compact.count(b'\\":')


def _has_duplicate_keys_exactly(body: bytes) -> bool:
    num_lost = 0

    def count(pairs: list[tuple[str, Any]]) -> None:
        nonlocal num_lost
        num_lost += len(pairs) - len({key for key, _ in pairs})

    json.loads(body, object_pairs_hook=count, parse_int=str, parse_float=str)
    return num_lost > 0
