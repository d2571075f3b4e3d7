"""Words and letters that must occur, or must not.

As in the published measure, `existence` and `frequency` find a keyword inside longer words too ("intern" in
"internship"), while a forbidden word is forbidden as a word of its own. Case plays no part.
"""

from __future__ import annotations

import re

from lightship.evaluation.tasks.scorers.instructions.instruction import RELATIONS


def has_keywords(reply: str, *, keywords: tuple[str, ...]) -> bool:
    """Whether every keyword occurs."""
    folded = reply.casefold()
    return all(keyword.strip().casefold() in folded for keyword in keywords)


def has_keyword_count(reply: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """Whether the keyword occurs at least, or less than, so many times; occurrences do not overlap."""
    return RELATIONS[relation](reply.casefold().count(keyword.strip().casefold()), frequency)


def has_no_forbidden_word(reply: str, *, forbidden_words: tuple[str, ...]) -> bool:
    """Whether none of the words occurs with no letter, digit or underscore right before and after it."""
    return not any(
        re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", reply, re.IGNORECASE) for word in forbidden_words
    )


def has_letter_count(reply: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """Whether the character occurs at least, or less than, so many times."""
    return RELATIONS[let_relation](reply.lower().count(letter.lower()), let_frequency)
