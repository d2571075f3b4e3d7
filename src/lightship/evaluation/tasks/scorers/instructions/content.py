"""Content that can be recognized: placeholders and a postscript."""

from __future__ import annotations

import re

_PLACEHOLDER = re.compile(r"\[[^\[\]]+\]")


def has_placeholders(reply: str, *, num_placeholders: int) -> bool:
    """Whether at least so many placeholders in square brackets, with something in them, occur."""
    return sum(bool(match[0][1:-1].strip()) for match in _PLACEHOLDER.finditer(reply)) >= num_placeholders


def has_postscript(reply: str, *, postscript_marker: str) -> bool:
    """Whether the marker occurs, in either case.

    `P.S.` and `P.P.S` may have a blank after each full stop, and the last full stop may be missing.
    """
    marker = postscript_marker.strip()
    letters = [letter for letter in marker.split(".") if letter]
    if re.fullmatch(r"(?:[Pp]\.)+[Ss]\.?", marker):
        pattern = r"\.\s?".join(map(re.escape, letters))
        return re.search(rf"(?<!\w){pattern}(?!\w)", reply, re.IGNORECASE) is not None
    return marker.casefold() in reply.casefold()
