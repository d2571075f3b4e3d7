"""Splits text into words and sentences by rules that hold for many languages. Pure; approximate, and stable.

Published IFEval figures count sentences with a trained model; these rules differ from it where an abbreviation is not
in the list, or a sentence ends without white space after it.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Full stops of Latin, Devanagari (danda), CJK, Arabic, Urdu and Ethiopic writing, and the ellipsis.
_STOPS = r"[.!?\u2026\u0964\u0965\u061f\u06d4\u1362\u203c\u2047\u2048\u2049]"
# From the first stop of a run only: else a long run would be tried from each of its stops.
_SENTENCE_END = re.compile(rf"(?<!{_STOPS}){_STOPS}+[\"'\u201d\u2019\u00bb)\]*_]*(?=\s|$)")
_CJK_END = re.compile(r"[\u3002\uff01\uff1f]+[\u300d\u300f\uff09\"\u201d]*")
_ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "mt", "vs", "etc", "e.g", "i.e", "cf", "al", "inc", "ltd",
    "co", "corp", "dept", "fig", "no", "vol", "pp", "approx", "est", "gen", "col", "lt", "sgt", "rev", "hon", "gov",
    "sen", "rep", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "a.m", "p.m",
    "u.s", "u.k", "u.n", "ph.d", "b.a", "m.a", "d.c",
})  # fmt: skip
_LAST_WORD = re.compile(r"\S+\Z")
# Characters before a full stop that are looked at; no abbreviation or list number is nearly as long.
_LONGEST_ABBREVIATION = 40


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, with the marks that belong to them; "don't" is two, "well-known" too."""
    return _word_pattern().findall(text)


def split_tokens(text: str) -> list[str]:
    """What stands between white space, without punctuation round it; "don't" and "well-known" are one each."""
    stripped = (_strip_punctuation(token) for token in text.split())
    return [token for token in stripped if token]


def count_sentences(text: str) -> int:
    """Number of sentences.

    One ends with `.`, `!`, `?` or the like before white space or the end; not after a known abbreviation, a single
    capital letter or the number of a list entry. A line break alone ends none, and what is left without an end counts
    as one where it has a letter or digit.
    """
    count = 0
    start = 0
    for end in _sentence_ends(text):
        if any(character.isalnum() for character in text[start:end]):
            count += 1
        start = end
    return count + any(character.isalnum() for character in text[start:])


def _sentence_ends(text: str) -> list[int]:
    ends = [match.end() for match in _CJK_END.finditer(text)]
    for match in _SENTENCE_END.finditer(text):
        if match[0] != "." or not _is_abbreviated(text, match.start()):
            ends.append(match.end())
    return sorted(ends)


def _is_abbreviated(text: str, position: int) -> bool:
    """Whether the full stop at `position` belongs to the word before it, and the line goes on."""
    line_start = text.rfind("\n", 0, position) + 1
    seen_from = max(line_start, position - _LONGEST_ABBREVIATION)
    before = text[seen_from:position]
    word = _LAST_WORD.search(before)
    if word is None:
        return True
    is_list_number = word[0].isdigit() and seen_from == line_start and before.strip() == word[0]
    bare = word[0].lstrip("(\"'[*_\u201c\u2018")
    is_initial = len(bare) == 1 and bare.isupper() and bare != "I"
    goes_on = text[position + 1 : position + 2] not in {"", "\n"}
    return is_list_number or (goes_on and (is_initial or bare.casefold() in _ABBREVIATIONS))


def _strip_punctuation(token: str) -> str:
    start, end = 0, len(token)
    while start < end and not token[start].isalnum():
        start += 1
    while end > start and not token[end - 1].isalnum() and not unicodedata.category(token[end - 1]).startswith("M"):
        end -= 1
    return token[start:end]


@cache
def _word_pattern() -> re.Pattern[str]:
    # `\w` has no combining marks, so that it would cut words of Indic scripts at their vowels. All marks of the basic
    # plane stand below U+FE30.
    marks = "".join(c for c in map(chr, range(0x300, 0xFE30)) if unicodedata.category(c).startswith("M"))
    return re.compile(rf"\w[\w{marks}]*")
