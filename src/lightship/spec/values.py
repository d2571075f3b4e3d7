"""Field types that a spec writes for people and the program reads as plain numbers: sizes, spans, addresses, rungs.

Each one serializes to the text a user would write, and reads that text back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from lightship.units import parse_bytes, parse_duration_s

_BYTE_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SPAN_UNITS = (("d", 86400), ("h", 3600), ("m", 60))
_BYTES_PATTERN = r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtT][iI]?[bB]|[bB])?\s*$"
_SPAN_PATTERN = r"^\s*[0-9]+(\.[0-9]+)?\s*([mM][sS]|[sSmMhHdD])?\s*$"
_MAX_QUANTITY_CHARS = 32
_LISTEN = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})")
_RUNG = re.compile(r"(?P<variant>[a-z0-9][a-z0-9._-]{0,63})@(?P<engine>[a-z]{1,32})")


def show_bytes(num_bytes: int) -> str:
    """The size as exact text, in the largest binary unit that divides it.

    >>> show_bytes(2**30), show_bytes(1000)
    ('1 GiB', '1000 B')
    """
    for unit, factor in _BYTE_UNITS:
        if num_bytes and num_bytes % factor == 0:
            return f"{num_bytes // factor} {unit}"
    return f"{num_bytes} B"


def show_span(span_s: float) -> str:
    """The span of time as exact text, in the largest unit that divides it.

    >>> show_span(86400.0), show_span(90.5)
    ('1d', '90.5s')
    """
    for unit, factor in _SPAN_UNITS:
        if span_s and span_s % factor == 0:
            return f"{int(span_s // factor)}{unit}"
    return f"{int(span_s)}s" if span_s == int(span_s) else f"{span_s!r}s"


def _read_bytes(value: Any) -> Any:
    return parse_bytes(_short(value)) if isinstance(value, str) else value


def _read_span(value: Any) -> Any:
    return parse_duration_s(_short(value)) if isinstance(value, str) else value


def _short(text: str) -> str:
    if len(text) > _MAX_QUANTITY_CHARS:
        raise ValueError(f"{len(text)} characters are too many for a number with a unit")
    return text


def _bytes_schema(low: int, high: int, *, example: str) -> WithJsonSchema:
    text = {"type": "string", "pattern": _BYTES_PATTERN, "maxLength": _MAX_QUANTITY_CHARS, "examples": [example]}
    return WithJsonSchema({"anyOf": [text, {"type": "integer", "minimum": low, "maximum": high}]})


_SHOW_BYTES = PlainSerializer(show_bytes, return_type=str)

# Less than a few blocks cannot hold one prompt; more than 4 TiB is a typing error.
KvCacheBytes = Annotated[
    int,
    BeforeValidator(_read_bytes),
    Field(ge=2**24, le=2**42),
    _SHOW_BYTES,
    _bytes_schema(2**24, 2**42, example="1 GiB"),
]

# None at all, or more than one short prompt takes.
PromptCacheBytes = Annotated[
    int,
    BeforeValidator(_read_bytes),
    Field(ge=0, le=2**42),
    _SHOW_BYTES,
    _bytes_schema(0, 2**42, example="256 MiB"),
]

# A body is held in memory, so even a generous limit stays far below a machine's memory.
BodyLimitBytes = Annotated[
    int,
    BeforeValidator(_read_bytes),
    Field(ge=2**10, le=2**28),
    _SHOW_BYTES,
    _bytes_schema(2**10, 2**28, example="8 MiB"),
]

# A cache below a few answers is none; more than 4 TiB is a typing error.
CacheBytes = Annotated[
    int,
    BeforeValidator(_read_bytes),
    Field(ge=2**20, le=2**42),
    _SHOW_BYTES,
    _bytes_schema(2**20, 2**42, example="256 MiB"),
]

_SPAN_TEXT = {"type": "string", "pattern": _SPAN_PATTERN, "maxLength": _MAX_QUANTITY_CHARS, "examples": ["1d"]}

# A budget period: a minute is the shortest that holds enough requests to count, a month the longest people plan.
BudgetPeriodS = Annotated[
    float,
    BeforeValidator(_read_span),
    Field(ge=60, le=31 * 86400),
    PlainSerializer(show_span, return_type=str),
    WithJsonSchema({"anyOf": [_SPAN_TEXT, {"type": "number", "minimum": 60, "maximum": 31 * 86400}]}),
]

# `auto` is 0, the value engines understand as "all cores of this machine".
ThreadCount = Annotated[
    int,
    BeforeValidator(lambda value: 0 if value == "auto" else value),
    Field(ge=0, le=4096),
    PlainSerializer(lambda count: count or "auto", return_type=int | str),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 0, "maximum": 4096}]}),
]

# `auto` is None: the engine chooses. Zero is a choice of its own.
InputGroupSize = Annotated[
    Annotated[int, Field(ge=0, le=65_536)] | None,
    BeforeValidator(lambda value: None if value == "auto" else value),
    PlainSerializer(lambda size: "auto" if size is None else size, return_type=int | str),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 0, "maximum": 65_536}]}),
]

ModelName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]*$", max_length=96, examples=["storyteller", "org/name"])
]
VariantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64, examples=["int8", "fp16"])]
# Names that users make up and that become metric labels or environment paths.
Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=48, examples=["default", "cloud"])]


@dataclass(frozen=True)
class ListenAddress:
    """Host (without brackets) and TCP port to listen on; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_listen(text: str) -> ListenAddress:
    """The address that `text` names.

    Raises: ValueError: not host:port.

    >>> parse_listen("[::1]:80")
    ListenAddress(host='::1', port=80)
    """
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"expected host:port like 127.0.0.1:8080 or [::1]:8080, got {text!r}")
    return ListenAddress(match["host"].strip("[]"), int(match["port"]))


@dataclass(frozen=True)
class RungName:
    """One entry of an explicit ladder: a variant on an engine."""

    variant: str
    engine: str

    def __str__(self) -> str:
        return f"{self.variant}@{self.engine}"


def parse_rung(text: str) -> RungName:
    """The rung that `text` names.

    Raises: ValueError: not variant@engine.
    """
    match = _RUNG.fullmatch(text)
    if match is None:
        raise ValueError(f"expected variant@engine like int8@openvino, got {text!r}")
    return RungName(match["variant"], match["engine"])


def _validate_listen(value: Any) -> ListenAddress:
    return value if isinstance(value, ListenAddress) else parse_listen(_text(value, "127.0.0.1:8080"))


def _validate_rung(value: Any) -> RungName:
    return value if isinstance(value, RungName) else parse_rung(_text(value, "int8@openvino"))


def _text(value: Any, example: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text like {example}")  # noqa: TRY004 - only a ValueError becomes a field error
    return value


ListenField = Annotated[
    ListenAddress,
    PlainValidator(_validate_listen),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$",
            "maxLength": 300,
            "examples": ["127.0.0.1:8080"],
        }
    ),
]

RungField = Annotated[
    RungName,
    PlainValidator(_validate_rung),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[a-z0-9][a-z0-9._-]*@[a-z]+$",
            "maxLength": 128,
            "examples": ["int8@openvino"],
        }
    ),
]


def _auto_or_list_tag(value: Any) -> str:
    return "auto" if isinstance(value, str) else "list"


# Chooses the branch before validation, so that a mistake is reported once, for the branch the user meant.
AUTO_OR_LIST = Discriminator(_auto_or_list_tag)


def refuse_repeats(values: tuple[object, ...]) -> None:
    """Returns when every value is there once.

    Raises: ValueError: names the first value that is there twice.
    """
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{value} is listed twice")
        seen.add(value)
