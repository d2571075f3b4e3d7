"""Tells whether a text may be in a language, by its writing and its most frequent small words. Pure.

No trained model: the writing decides where only one of the languages uses it, else the language whose small words and
own letters occur most. It answers "may be": a text without any such word ("Peace!") may be in every language of its
writing. It cannot tell languages apart that are not listed (Dutch may pass for German where nothing speaks against it),
nor see a language in foreign letters (Hindi in Latin ones), and of a mixed text it sees the language of most words.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import msgspec

from lightship.evaluation.tasks.scorers.instructions.segmentation import words

# Characters of a reply that are looked at; a language is clear long before.
_MAX_CHARS = 20_000

# First and last code point of each writing's letters, Unicode 15 blocks.
_SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x0041, 0x024F, "latin"), (0x1E00, 0x1EFF, "latin"), (0x0370, 0x03FF, "greek"), (0x0400, 0x052F, "cyrillic"),
    (0x0590, 0x05FF, "hebrew"), (0x0600, 0x06FF, "arabic"), (0x0750, 0x077F, "arabic"), (0xFB50, 0xFDFF, "arabic"),
    (0xFE70, 0xFEFC, "arabic"), (0x0900, 0x097F, "devanagari"), (0x0980, 0x09FF, "bengali"),
    (0x0A00, 0x0A7F, "gurmukhi"), (0x0A80, 0x0AFF, "gujarati"), (0x0B80, 0x0BFF, "tamil"), (0x0C00, 0x0C7F, "telugu"),
    (0x0C80, 0x0CFF, "kannada"), (0x0D00, 0x0D7F, "malayalam"), (0x0E00, 0x0E7F, "thai"), (0x1100, 0x11FF, "hangul"),
    (0x3040, 0x30FF, "kana"), (0x3130, 0x318F, "hangul"), (0x4E00, 0x9FFF, "han"), (0xAC00, 0xD7AF, "hangul"),
)  # fmt: skip


@dataclass(frozen=True)
class Language:
    """A language and the writing it is known by."""

    name: str
    script: str


@dataclass(frozen=True)
class Profile:
    """What tells a language from others of its writing: frequent small words, and letters the others do not have."""

    small_words: frozenset[str]
    own_letters: frozenset[str]


# By ISO 639-1 code.
LANGUAGES: Mapping[str, Language] = {
    "ar": Language("Arabic", "arabic"),
    "bg": Language("Bulgarian", "cyrillic"),
    "bn": Language("Bengali", "bengali"),
    "de": Language("German", "latin"),
    "en": Language("English", "latin"),
    "es": Language("Spanish", "latin"),
    "fa": Language("Persian", "arabic"),
    "fi": Language("Finnish", "latin"),
    "fr": Language("French", "latin"),
    "gu": Language("Gujarati", "gujarati"),
    "he": Language("Hebrew", "hebrew"),
    "hi": Language("Hindi", "devanagari"),
    "it": Language("Italian", "latin"),
    "ja": Language("Japanese", "kana"),
    "kn": Language("Kannada", "kannada"),
    "ko": Language("Korean", "hangul"),
    "ml": Language("Malayalam", "malayalam"),
    "mr": Language("Marathi", "devanagari"),
    "ne": Language("Nepali", "devanagari"),
    "pa": Language("Punjabi", "gurmukhi"),
    "pl": Language("Polish", "latin"),
    "pt": Language("Portuguese", "latin"),
    "ru": Language("Russian", "cyrillic"),
    "sw": Language("Swahili", "latin"),
    "ta": Language("Tamil", "tamil"),
    "te": Language("Telugu", "telugu"),
    "th": Language("Thai", "thai"),
    "uk": Language("Ukrainian", "cyrillic"),
    "ur": Language("Urdu", "arabic"),
    "vi": Language("Vietnamese", "latin"),
    "zh": Language("Chinese", "han"),
}


def may_be_in(text: str, code: str) -> bool:
    """Whether most letters are of the language's writing, and no other listed language fits the words better.

    Raises: KeyError: the language is not listed.
    """
    script = LANGUAGES[code].script
    seen = unicodedata.normalize("NFC", text[:_MAX_CHARS])
    if main_script(seen) != script:
        return False
    candidates = [other for other, language in LANGUAGES.items() if language.script == script]
    if len(candidates) == 1:
        return True
    counted = Counter(word.lower() for word in words(seen))
    evidence = {other: _evidence(_profiles()[other], counted) for other in candidates}
    return evidence[code] == max(evidence.values())


def main_script(text: str) -> str | None:
    """The writing of most letters; None where there are none. Han counts as kana as soon as a tenth of both is kana."""
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            counts[_script(ord(character))] += count
    if counts["kana"] * 9 >= counts["han"] and counts["kana"]:
        counts["kana"] += counts.pop("han", 0)
    return max(counts, key=lambda script: counts[script]) if counts else None


def _script(code_point: int) -> str:
    return next((name for first, last, name in _SCRIPTS if first <= code_point <= last), "other")


def _evidence(profile: Profile, counted: Mapping[str, int]) -> int:
    """Words that are small words of the language, plus words with a letter of its own."""
    return sum(
        count * ((word in profile.small_words) + (not profile.own_letters.isdisjoint(word)))
        for word, count in counted.items()
    )


@cache
def _profiles() -> Mapping[str, Profile]:
    """Of the languages that share their writing with another one."""
    content = files("lightship.evaluation.tasks.scorers.instructions").joinpath("small_words.json").read_bytes()
    return {
        code: Profile(frozenset(entry["small_words"].split()), frozenset(entry["own_letters"]))
        for code, entry in msgspec.json.decode(content, type=dict[str, dict[str, str]]).items()
    }


def is_in_language(reply: str, *, language: str) -> bool:
    """Whether the reply may be in the language; without a letter it is in none."""
    return may_be_in(reply, language)
