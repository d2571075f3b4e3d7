"""Deterministic prompts that no prefix cache has seen: each begins differently."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from lightship.errors import MeasurementError

# Characters within which two prompts must differ: well inside the first block of any engine's prefix cache (16 tokens
# and more).
OPENING_CHARS = 24
# Draws before consecutive text is given up for shuffled words.
_MAX_DRAWS = 20


def draw_prompts(texts: Sequence[str], *, num_chars: int, seed: int) -> Iterator[str]:
    """Prompts of exactly `num_chars` characters, without end, no two with the same opening.

    Each is running text from a random place; where the texts are too short for that, shuffled words of theirs.

    Args:
        texts: Where the words come from.
        num_chars: Length of each prompt.
        seed: Same seed, same prompts.

    Raises: MeasurementError: on drawing, when the texts have too few words for another distinct opening.
    """
    words = [word for text in texts for word in text.split()]
    if not words:
        raise MeasurementError("there is no text to draw prompts from", hint="Give texts with words in them.")
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        for attempt in range(2 * _MAX_DRAWS):
            prompt = _draw(words, rng, num_chars=num_chars, is_shuffled=attempt >= _MAX_DRAWS)
            if prompt[:OPENING_CHARS] not in seen:
                break
        else:
            raise MeasurementError(
                f"the texts have too few different words for more than {len(seen)} distinct prompts",
                hint="Give more text.",
            )
        seen.add(prompt[:OPENING_CHARS])
        yield prompt


def _draw(words: Sequence[str], rng: random.Random, *, num_chars: int, is_shuffled: bool) -> str:
    place = rng.randrange(len(words))
    parts: list[str] = []
    length = -1
    while length < num_chars:
        word = rng.choice(words) if is_shuffled else words[place % len(words)]
        parts.append(word)
        length += len(word) + 1
        place += 1
    return " ".join(parts)[:num_chars]
