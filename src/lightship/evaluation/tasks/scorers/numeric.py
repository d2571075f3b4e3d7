"""Reads numbers as people and models write them, exactly. Pure.

"$1,234.50", "1234.5", "12%", "-3", "−3", "3/4", "1.5e3" and "18." are understood; a thousands comma only where groups
of three follow it, so "1,2" is two numbers. Not understood: words ("twelve"), decimal commas, mixed fractions ("1 1/2"
reads as 1 and 1/2), dates, LaTeX fractions, other digits than 0-9.
"""

from __future__ import annotations

import re
from fractions import Fraction

# Digits of a number that are worth reading; more is noise, and would take long to convert.
_MAX_DIGITS = 400

_NUMBER = re.compile(
    r"""
    (?<!\w)(?<!\d[./])                             # not inside a word, a number or a date
    (?P<sign>[-+\u2212])?[$\u20ac\u00a3]?(?P<inner_sign>[-\u2212])?   # "- 3" is a list entry, "-3" a number
    (?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?
    (?P<decimals>(?<!\.)\.\d+)?                    # "...18" is 18
    (?:[eE](?P<exponent>[-+]?\d{1,2})(?!\w))?
    (?:/(?P<divisor>\d+)(?![\d/]|\.\d))?
    """,
    re.VERBOSE | re.ASCII,
)


def last_number(text: str) -> Fraction | None:
    """The last number of the text, exactly; None where there is none.

    A percent sign is a unit and changes nothing: "12%" is 12.
    """
    found = None
    for match in _NUMBER.finditer(text):
        value = _value(match)
        found = value if value is not None else found
    return found


def whole_text_number(text: str) -> Fraction | None:
    """The number, where the text is one number and nothing else (but a unit sign or a full stop)."""
    stripped = text.strip().rstrip(".%").strip()
    match = _NUMBER.fullmatch(stripped)
    return None if match is None else _value(match)


def _value(match: re.Match[str]) -> Fraction | None:
    whole, decimals = match["whole"], match["decimals"]
    if whole is None and decimals is None:
        return None
    digits = (whole or "0").replace(",", "") + (decimals or "")
    divisor = match["divisor"] or "1"
    if len(digits) > _MAX_DIGITS or len(divisor) > _MAX_DIGITS or int(divisor) == 0:
        return None
    value = Fraction(digits) * Fraction(10) ** int(match["exponent"] or 0) / int(divisor)
    is_negative = match["sign"] in {"-", "\u2212"} or match["inner_sign"] is not None
    return -value if is_negative else value
