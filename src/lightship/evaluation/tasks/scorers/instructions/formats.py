"""Forms that can be recognized: lists, highlights, sections, JSON, titles, one of three phrases."""

from __future__ import annotations

import json
import re
from typing import NoReturn

_PHRASES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
# A line that begins with one asterisk, or with a hyphen; "**" begins bold text, "***" and "---" divide.
_BULLET = re.compile(r"^[ \t]*(?:\*(?!\*)|-(?!-))[ \t]*\S", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*(?P<bold>[^\n*]+)\*\*|\*(?P<plain>[^\n*]+)\*")
_FENCE = "```"


def has_bullets(reply: str, *, num_bullets: int) -> bool:
    """Whether it has exactly so many list entries that begin with `*` or `-`."""
    return len(_BULLET.findall(reply)) == num_bullets


def has_highlights(reply: str, *, num_highlights: int) -> bool:
    """Whether at least so many parts stand between asterisks, `*so*` or `**so**`, each on one line."""
    found = (match["bold"] or match["plain"] for match in _HIGHLIGHT.finditer(reply))
    return sum(bool(part.strip()) for part in found) >= num_highlights


def has_sections(reply: str, *, section_spliter: str, num_sections: int) -> bool:
    """Whether at least so many sections are marked with the word and a number, as in "SECTION 1"; case matters.

    The parameter is spelled as in the published set.
    """
    pattern = rf"(?<!\w){re.escape(section_spliter.strip())}\s?\d+"
    return len(re.findall(pattern, reply)) >= num_sections


def is_json(reply: str) -> bool:
    """Whether the whole reply is one JSON value, bare or in a Markdown fence; NaN and Infinity are not JSON."""
    try:
        json.loads(_without_fence(reply.strip()), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def has_title(reply: str) -> bool:
    """Whether a title in double angular brackets, with something in it, occurs."""
    for line in reply.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end and line[start:end].strip("<> \t"):
            return True
    return False


def is_constrained(reply: str) -> bool:
    """Whether one of the three phrases of the set occurs, exactly as written."""
    return any(phrase in reply for phrase in _PHRASES)


def _without_fence(text: str) -> str:
    """What stands in a Markdown fence, without the name of its language; the text where it is not in one."""
    if not (text.startswith(_FENCE) and text.endswith(_FENCE) and len(text) >= 2 * len(_FENCE)):
        return text
    inside = text.removeprefix(_FENCE).removesuffix(_FENCE)
    first, found, rest = inside.partition("\n")
    is_language = first.strip().isalpha() or not first.strip()
    return rest if found and is_language else inside


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
