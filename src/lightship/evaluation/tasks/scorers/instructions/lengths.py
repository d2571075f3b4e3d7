"""Numbers of words, sentences and paragraphs.

Paragraphs are divided by `***` where their number is all that is asked for, and by an empty line where the first word
of one is; that is how the set's prompts ask for them.
"""

from __future__ import annotations

import re

from lightship.evaluation.tasks.scorers.instructions.instruction import RELATIONS
from lightship.evaluation.tasks.scorers.instructions.segmentation import count_sentences, words

_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_EMPTY_LINE = re.compile(r"\n[ \t]*\n")
_QUOTES = "\"'\u201c\u201d\u2018\u2019"


def has_word_count(reply: str, *, num_words: int, relation: str) -> bool:
    """Whether it has at least, or less than, so many words."""
    return RELATIONS[relation](len(words(reply)), num_words)


def has_sentence_count(reply: str, *, num_sentences: int, relation: str) -> bool:
    """Whether it has at least, or less than, so many sentences; see `segmentation.count_sentences`."""
    return RELATIONS[relation](count_sentences(reply), num_sentences)


def has_paragraphs(reply: str, *, num_paragraphs: int) -> bool:
    """Whether `***` divides it into exactly so many paragraphs; an empty one counts as a fault unless first or last."""
    paragraphs = _DIVIDER.split(reply)
    if any(not paragraph.strip() for paragraph in paragraphs[1:-1]):
        return False
    return sum(bool(paragraph.strip()) for paragraph in paragraphs) == num_paragraphs


def has_first_word(reply: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Whether empty lines divide it into exactly so many paragraphs, and the n-th (from 1) begins with the word."""
    paragraphs = [paragraph.strip() for paragraph in _EMPTY_LINE.split(reply) if paragraph.strip()]
    if len(paragraphs) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    first = paragraphs[nth_paragraph - 1].split(maxsplit=1)[0].lstrip(_QUOTES)
    match = re.match(r"[^.,?!'\"]*", first)
    return match is not None and match[0].casefold() == first_word.strip().casefold()
