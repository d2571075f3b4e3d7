"""Replies that are put together from parts."""

from __future__ import annotations

_DIVIDER = "*" * 6


def has_two_responses(reply: str) -> bool:
    """Whether `******` divides it into two parts that differ; one before the first or after the last is allowed."""
    parts = [part.strip() for part in reply.split(_DIVIDER)]
    if not parts[0]:
        del parts[0]
    if parts and not parts[-1]:
        del parts[-1]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def repeats_prompt(reply: str, *, prompt_to_repeat: str) -> bool:
    """Whether it begins with the prompt; case and white space round it play no part."""
    return reply.strip().casefold().startswith(prompt_to_repeat.strip().casefold())
