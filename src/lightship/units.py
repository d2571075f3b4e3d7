"""Quantities as people write and read them; inside the program they are plain numbers with the unit in the name."""

from __future__ import annotations

import re

_BYTE_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_DURATION_FACTORS_S = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str) -> int:
    """Bytes named by a text like `1.2 GiB`, `500MB` or `4096`.

    Raises: ValueError: not a number with a known unit.

    >>> parse_bytes("1.5 KiB")
    1536
    """
    return round(_parse(text, _BYTE_FACTORS))


def parse_duration_s(text: str) -> float:
    """Seconds named by a text like `250ms`, `1.5h`, `1d` or `30`.

    Raises: ValueError: not a number with a known unit.

    >>> parse_duration_s("250ms")
    0.25
    """
    return _parse(text, _DURATION_FACTORS_S)


def _parse(text: str, factors: dict[str, float] | dict[str, int]) -> float:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2].lower() not in factors:
        known = ", ".join(unit for unit in factors if unit)
        raise ValueError(f"{text!r} is not a number with one of the units {known}")
    return float(match[1]) * factors[match[2].lower()]


def format_bytes(num_bytes: float) -> str:
    """Three significant digits with a binary unit.

    >>> format_bytes(17_834_496)
    '17.0 MiB'
    """
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return (
                f"{value:.0f} {unit}"
                if unit == "B"
                else f"{value:.3g} {unit}"
                if value >= 100
                else f"{value:.1f} {unit}"
            )
        value /= 1024
    return f"{value:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Short duration for people.

    >>> format_duration(0.25), format_duration(75)
    ('250 ms', '1 min 15 s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
