"""How a reply begins and ends, and characters it must not have."""

from __future__ import annotations


def ends_with(reply: str, *, end_phrase: str) -> bool:
    """Whether it ends with the phrase; case and quotation marks round the reply play no part."""
    return reply.strip().strip('"').rstrip().casefold().endswith(end_phrase.strip().strip('"').casefold())


def is_quoted(reply: str) -> bool:
    """Whether the whole reply stands in double quotation marks."""
    stripped = reply.strip()
    return len(stripped) > 1 and stripped.startswith('"') and stripped.endswith('"')


def has_no_comma(reply: str) -> bool:
    """Whether no ASCII comma occurs."""
    return "," not in reply
