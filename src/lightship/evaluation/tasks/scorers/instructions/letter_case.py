"""Capital and small letters. The two English forms also ask for the language, as far as it can be told."""

from __future__ import annotations

from lightship.evaluation.tasks.scorers.instructions.instruction import RELATIONS
from lightship.evaluation.tasks.scorers.instructions.languages import may_be_in
from lightship.evaluation.tasks.scorers.instructions.segmentation import split_tokens


def has_capital_words(reply: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """Whether at least, or less than, so many words are all in capital letters; "I" and "A" are two of them."""
    return RELATIONS[capital_relation](sum(token.isupper() for token in split_tokens(reply)), capital_frequency)


def is_english_capital(reply: str) -> bool:
    """Whether it has letters, none of them small, and may be English."""
    return reply.isupper() and may_be_in(reply, "en")


def is_english_lowercase(reply: str) -> bool:
    """Whether it has letters, none of them capital, and may be English."""
    return reply.islower() and may_be_in(reply, "en")
